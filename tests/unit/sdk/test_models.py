import io
import types

import numpy as np
import pytest
from PIL import Image

from lepton_ai import running
from lepton_ai.base import _check_unseen
from lepton_ai.datasets import ImageFolder
from lepton_ai.models import CNN, load
from lepton_tasks.core.errors import ArtifactError, ConfigError


def learned(part):
    return {"data": part.data.model_dump(mode="json"), "seed": part.seed}


def test_another_cut_of_what_was_learned_from_is_no_test(tmp_path):
    train, test = ImageFolder.split(tmp_path / "a", test=0.2)
    _check_unseen(test, learned(train))
    _check_unseen(ImageFolder.split(tmp_path / "b", seed=1)[1], learned(train))
    model = CNN((8, 8, 1), 2)
    model._trained = types.SimpleNamespace(spec={"use_case": learned(train)})
    for other in (ImageFolder.split(tmp_path / "a", test=0.2, seed=1)[1], ImageFolder.split(tmp_path / "a")[1]):
        with pytest.raises(ConfigError, match=r"a: the model has learned from some .* \(seed=0, test=0.2\)"):
            model.evaluate(other)


def test_a_saved_model_of_another_class_is_named(monkeypatch):
    monkeypatch.setattr(running, "load", lambda path: ("Tree", None))
    with pytest.raises(ArtifactError, match=r"m.pth: holds a Tree, which is none of CNN, GAN, MLP, RNN"):
        load("m.pth")


@pytest.mark.parametrize(
    ("folder", "named", "told"),
    [
        ("new/2nd Model", None, r"name: '2nd Model' cannot be the name of a model. .*name='nd_model'"),
        ("new/digits", "x", r"name: 'x' cannot be the name of a model. .*name='my_model'"),
        (".", "digits", "holds other files than those of a model package. Give a new folder."),
        ("notes.txt", "digits", "notes.txt: is a file. Give a new folder."),
    ],
)
def test_a_package_needs_a_folder_and_a_name(tmp_path, folder, named, told):
    (tmp_path / "notes.txt").write_text("mine")
    model = CNN((8, 8, 1), 2)
    with pytest.raises(ConfigError, match="CNN: the model is not trained yet"):
        model.export(tmp_path / folder, name=named)
    model._trained = types.SimpleNamespace(spec={})
    with pytest.raises(ConfigError, match=told):
        model.export(tmp_path / folder, name=named)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_other_than_the_right_part_are_refused(tmp_path):
    train, test = ImageFolder.split(tmp_path)
    model = CNN((8, 8, 1), 2)
    for call in (model.fit, model.evaluate):
        with pytest.raises(ConfigError, match=r"data: expected a part of a data set, not a tuple. Take one of"):
            call((train, test))
    with pytest.raises(ConfigError, match=r"this is the test part. Take the training part"):
        model.fit(test)


def test_one_input_and_a_wrong_shape_are_told():
    with pytest.raises(ConfigError, match=r"input_shape: \(28, 28\) is not \(height, width, channels\)"):
        CNN((28, 28), 10)
    with pytest.raises(ConfigError, match=r"inputs: this is one input, not a list"):
        CNN((28, 28, 1), 10).predict("seven.png")


def test_a_model_says_whether_it_is_trained():
    model = CNN((8, 8, 1), 2)
    assert repr(model) == "<CNN for 2 classes, not trained>"
    model._trained = types.SimpleNamespace(spec={})
    assert repr(model) == "<CNN for 2 classes, trained>"


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1), (2, 2, 3)])
def test_an_array_is_a_picture(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    codec = types.SimpleNamespace(media_type="image/png")
    with Image.open(io.BytesIO(running._payload(codec, pixels))) as picture:
        assert np.array_equal(np.asarray(picture).reshape(shape), pixels)
