"""The loop over batches learns what Lightning's own does."""

import pytest
import tiny_training
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training import course, fit

pytestmark = pytest.mark.usefixtures("one_thread")


def weights(job):
    fit.fit(job)
    return torch.load(job.resume, weights_only=True)["network"], [row["train_loss"] for row in job.rows()]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 4, "gradient_clip": 0.1}, {"precision": "bf16"}])
def test_it_learns_what_lightning_s_own_does(tmp_path, monkeypatch, settings):
    ours, losses = weights(tiny_training.job(tmp_path / "ours", epochs=2, **settings))
    seen = []

    def own(trainer, course):
        loop = _TrainingEpochLoop(trainer)
        seen.append(loop)
        return loop

    monkeypatch.setattr(fit, "EpochLoop", own)
    theirs, their_losses = weights(tiny_training.job(tmp_path / "theirs", epochs=2, **settings))
    assert len(seen) == 1
    assert losses == their_losses
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_state_is_written_after_some_time_unless_a_number_of_steps_is_given(tmp_path, monkeypatch):
    saved = []
    real = course.Course._write
    monkeypatch.setattr(
        course.Course, "_write", lambda self, trainer: (saved.append(self.module.step_done), real(self, trainer))
    )
    fit.fit(tiny_training.job(tmp_path / "seldom", epochs=1, checkpoint_steps=None))
    assert saved == [6]  # at the epoch's end
    saved.clear()
    monkeypatch.setattr(course, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(course, "_SAVE_SHARE", 1e9)
    fit.fit(tiny_training.job(tmp_path / "often", epochs=1, checkpoint_steps=None))
    assert saved == [1, 2, 3, 4, 5, 6]  # the last step only once its epoch is judged


def test_too_large_a_batch_is_named(tmp_path, monkeypatch):
    def step(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(fit.TrainingModule, "training_step", step)
    with pytest.raises(ConfigError, match=r"train\.batch_size: .*batches of 16.*train\.accumulate"):
        fit.fit(tiny_training.job(tmp_path))


def test_label_smoothing_that_a_task_does_not_heed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lepton_tasks.learning.classification.Classification.smooths", False)
    with pytest.raises(ConfigError, match=r"train\.label_smoothing: .*smooths no labels"):
        fit.fit(tiny_training.job(tmp_path, label_smoothing=0.1))
