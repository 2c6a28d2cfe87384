"""Networks that learn in turn: each phase has its optimiser, and a training that was broken off goes on exactly."""

import pytest
import tiny_training
import torch
from PIL import Image

from lepton_tasks.core.errors import ConfigError, StageError
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.training.course import Course
from lepton_tasks.training.fit import fit

GENERATION = {
    "task": ComponentSpec(name="image_generation", params={"latent": 4, "critic_steps": 2, "penalty": 1.0}),
    "model": ComponentSpec(name="dcgan", params={"width": 4}),
}


def job(folder, **train):
    folder.mkdir(exist_ok=True)
    settings = {"average": "ema", "gradient_clip": 1.0, "checkpoint_steps": 4} | train
    return tiny_training.job(folder, **settings).model_copy(update=GENERATION)


def timeless(rows):
    timed = ("seconds", "samples_per_second", "energy_wh", "energy_estimate_wh")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def test_a_training_in_turns_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, broken = job(tmp_path / "whole"), job(tmp_path / "broken")
    fit(whole)
    real = Course.on_train_batch_end

    def told(self, trainer, module, *rest):
        self.told_to_stop = module.step_done + 1 == 9  # amid the second epoch, between two turns of the generator
        real(self, trainer, module, *rest)

    monkeypatch.setattr(Course, "on_train_batch_end", told)
    with pytest.raises(StageError, match="after 9 steps"):
        fit(broken)
    monkeypatch.undo()
    fit(broken)
    assert timeless(broken.rows()) == timeless(whole.rows())
    first, second = (torch.load(of.resume, weights_only=True) for of in (whole, broken))
    assert all(torch.equal(first["network"][name], second["network"][name]) for name in first["network"])
    assert [len(state["state"]) > 0 for state in first["optimizers"]] == [True, True]
    counts = [next(iter(state["state"].values()))["step"].item() for state in first["optimizers"]]
    assert counts == [18, 9]  # of the critic, and of the generator after each second one
    assert {"critic_loss", "generator_loss", "validation_fid"} <= set(whole.rows()[0])
    assert all(Image.open(whole.epoch_plot(epoch)).width > 100 for epoch in range(3))


@pytest.mark.parametrize("settings", [{"devices": 2}, {"accumulate": 2}, {"loss": "cross_entropy"}])
def test_what_phases_do_not_go_with_is_named(tmp_path, settings):
    with pytest.raises(ConfigError, match=f"train.{next(iter(settings))}"):
        fit(job(tmp_path, **settings))
