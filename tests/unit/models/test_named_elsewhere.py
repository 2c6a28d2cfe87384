import sys
import types

import numpy as np
import pytest
import tiny_training
import torch
import torch_pruning  # noqa: F401 -- it looks for timm when it is imported, and would find the one below
from torch import nn

from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.core.components import check_names, check_params_of
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.checkpoint import restored, write_checkpoint
from lepton_tasks.training.job import Teacher
from lepton_tasks.training.module import TrainingModule

GIVEN = {"input_shape": (tiny_training.SIDE, tiny_training.SIDE, 1), "num_classes": 2}


class Tiny(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.body = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, images):
        logits = self.fc(self.body(images).mean((2, 3)))
        return (logits, logits) if self.training else logits  # as torchvision's inception does


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """What the two packages offer, as far as it is used."""

    def create_model(name, *, pretrained, num_classes, in_chans, **others):
        assert not pretrained
        assert others == ({"img_size": (16, 16)} if name == "tiny_vit" else {})
        return Tiny(in_chans, num_classes)

    def get_model(name, *, weights, num_classes):
        assert weights is None
        return Tiny(3, num_classes)

    def configuration(name):
        return types.SimpleNamespace(fixed_input_size=name == "tiny_vit")

    names = ["tiny", "tiny_vit"]
    timm = types.SimpleNamespace(
        is_model=names.__contains__,
        list_models=lambda: names,
        create_model=create_model,
        get_pretrained_cfg=configuration,
    )
    models = types.SimpleNamespace(list_models=lambda module: names, get_model=get_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))


@pytest.mark.parametrize("name", ["timm/tiny", "timm/tiny_vit", "torchvision/tiny"])
def test_a_name_of_another_package_is_a_model_like_any_other(name, tmp_path):
    case = tiny_training.use_case(model=name)
    check_names(case, where="quarters.yaml")
    check_params_of(case, where="quarters.yaml")
    job = tiny_training.job(tmp_path).model_copy(update={"model": case.model})
    module = TrainingModule(job, steps=1, rank=0)
    images = torch.from_numpy(np.load(job.features / "train" / "inputs.npy")[:4])
    assert module.trainable(module.task.inputs(images)).shape == (4, 2)  # in training


def test_a_name_the_package_does_not_have_is_refused_with_the_closest_one():
    with pytest.raises(ConfigError, match=r"model: timm has no model named 'tinny'. Did you mean timm/tiny"):
        MODELS.load("timm/tinny", where="model")
    with pytest.raises(ConfigError, match="no model named 'hf-hub:someone/something'"):
        MODELS.load("timm/hf-hub:someone/something")
    with pytest.raises(ConfigError, match="no model named 'other/tiny'"):
        MODELS.check("other/tiny")


def test_without_the_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"'timm/tiny' needs the package timm.*Install timm.*lepton list models"):
        MODELS.load("timm/tiny")


def job_with_weights(folder, weights):
    of = tiny_training.job(folder)
    return of.model_copy(update={"model": of.model.model_copy(update={"name": "timm/tiny", "params": weights})})


def test_weights_come_from_a_file_but_for_a_last_layer_of_other_classes(tmp_path):
    kept = Tiny(1, 1000)
    torch.save({"state_dict": kept.state_dict()}, tmp_path / "tiny.pth")
    job = job_with_weights(tmp_path, {"weights": str(tmp_path / "tiny.pth")})
    module = TrainingModule(job, steps=1, rank=0)
    assert torch.equal(module.network.network.body.weight, kept.body.weight)
    assert module.network.network.fc.weight.shape == (2, 4)

    (tmp_path / "tiny.pth").unlink()  # what was trained needs it no more
    spec = {"task": job.task.model_dump(), "model": job.model.model_dump(), "fitted": job.fitted, "labels": job.labels}
    arguments = job.learning_task().network_arguments()
    found = restored({**spec, "network_arguments": arguments}, module.network.state_dict(), where="here")
    assert torch.equal(found.network.network.body.weight, kept.body.weight)


def test_without_its_weakest_channels_it_begins_with_its_own_weights(tmp_path):
    torch.save(Tiny(1, 1000).state_dict(), tmp_path / "tiny.pth")
    job = job_with_weights(tmp_path, {"weights": str(tmp_path / "tiny.pth")})
    trained = TrainingModule(job, steps=1, rank=0).network.network
    with torch.no_grad():
        trained.body.weight[1:3] *= 0.01
        trained.fc.weight[:, 1:3] *= 0.01
    torch.save({f"network.{name}": value for name, value in trained.state_dict().items()}, job.best)
    (tmp_path / "taught").mkdir()
    write_checkpoint(tmp_path / "taught", job, {})
    (tmp_path / "tiny.pth").unlink()
    teacher = Teacher(checkpoint=tmp_path / "taught", prune=0.5)
    module = TrainingModule(job.model_copy(update={"teacher": teacher}), steps=1, rank=0)
    assert torch.equal(module.network.network.body.weight, trained.body.weight[[0, 3]])
    assert module.network.training


def test_a_file_that_is_missing_or_of_another_network_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model.params.weights: no file .*none is downloaded"):
        TrainingModule(job_with_weights(tmp_path, {"weights": "nowhere.pth"}), steps=1, rank=0)
    torch.save(Tiny(3, 1000).state_dict(), tmp_path / "colour.pth")
    with pytest.raises(ConfigError, match=r"colour.pth is not of 'timm/tiny': 1 of 4 tensors.*body.weight"):
        TrainingModule(job_with_weights(tmp_path, {"weights": str(tmp_path / "colour.pth")}), steps=1, rank=0)


def test_other_channels_than_torchvision_takes_are_named():
    with pytest.raises(ConfigError, match="three channels or grey ones, not of 4"):
        MODELS.build("torchvision/tiny", {}, **{**GIVEN, "input_shape": (16, 16, 4)})
