import types

import pytest

from lepton_ai import running
from lepton_ai.datasets import ImageFolder
from lepton_ai.models import CNN, _check_unseen, load
from lepton_tasks.core.errors import ArtifactError, ConfigError


def learned(part):
    return {"data": part.data.model_dump(mode="json"), "seed": part.seed}


def test_another_cut_of_what_was_learned_from_is_no_test(tmp_path):
    train, test = ImageFolder.split(tmp_path / "a", test=0.2)
    _check_unseen(test, learned(train))
    _check_unseen(test, None)  # a model of an older version
    _check_unseen(ImageFolder.split(tmp_path / "b", seed=1)[1], learned(train))
    model = CNN((8, 8, 1), 2)
    model._trained = types.SimpleNamespace(spec={"learned_from": learned(train)})
    for other in (ImageFolder.split(tmp_path / "a", test=0.2, seed=1)[1], ImageFolder.split(tmp_path / "a")[1]):
        with pytest.raises(ConfigError, match=r"a: the model has learned from some .* \(seed=0, test=0.2\)"):
            model.evaluate(other)


def test_a_saved_model_of_another_class_is_named(monkeypatch):
    monkeypatch.setattr(running, "load", lambda path: ("Tree", None))
    with pytest.raises(ArtifactError, match=r"m.pth: holds a Tree, which is none of CNN, GAN, RNN"):
        load("m.pth")
