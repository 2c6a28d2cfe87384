"""Every line of the catalogue's FORMATS; Triton itself reads what is written for it in `integration/test_triton.py`."""

import json

import pytest
from tiny_packages import LABELS, make_package

from lepton_tasks.core.catalogue import FORMATS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.store import write_json
from lepton_tasks.deployment.formats.triton import Triton


@pytest.fixture
def package(tmp_path):
    make_package(tmp_path / "package")
    return tmp_path / "package"


WITH_CONVERTERS = {"litert"}
"""Formats whose converter is no part of Lepton."""


@pytest.mark.parametrize("name", sorted(WITH_CONVERTERS))
def test_without_its_converter_a_format_says_what_to_install(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=r"is not installed\. Install litert-torch"):
        FORMATS.build(name, {"checkpoint": str(tmp_path)}).write(package, tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", sorted(set(FORMATS.names()) - WITH_CONVERTERS))
def test_a_format_writes_one_folder_and_leaves_the_package_alone(name, package, tmp_path):
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    output = tmp_path / "output"
    folder = FORMATS.build(name, {}).write(package, output)
    assert list(output.iterdir()) == [folder]
    assert folder.name == "tiny"
    assert [path.read_bytes() for path in folder.rglob("model.onnx")] == [before["model.onnx"]]
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def written(package, output, **params):
    folder = Triton(**params).write(package, output)
    return folder, (folder / "config.pbtxt").read_text().splitlines()


def test_triton_is_told_what_the_graph_takes_and_gives(package, tmp_path):
    folder, lines = written(package, tmp_path / "repository", version=3, max_batch=16, queue_delay=500)
    assert (folder / "3" / "model.onnx").read_bytes() == (package / "model.onnx").read_bytes()
    assert (folder / "labels.txt").read_text().split() == LABELS
    graph = json.loads((package / "manifest.json").read_text())["model.onnx"]
    assert lines == [
        'name: "tiny"',
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 16",
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ 8, 8, 1 ] } ]',
        'output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]',
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        "dynamic_batching { max_queue_delay_microseconds: 500 }",
        'parameters { key: "lepton.task" value { string_value: "image_classification" } }',
        f'parameters {{ key: "lepton.graph_sha256" value {{ string_value: "{graph}" }} }}',
    ]


def test_without_batches_the_batch_is_a_dimension(package, tmp_path):
    _, lines = written(package, tmp_path, max_batch=0)
    assert "max_batch_size: 0" in lines
    assert 'input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1, 8, 8, 1 ] } ]' in lines
    assert not any("dynamic_batching" in line for line in lines)


def test_a_number_for_each_row_is_reshaped_and_a_name_is_quoted(package, tmp_path):
    spec = json.loads((package / "package.json").read_text())
    spec["outputs"] = [{"name": 'a "score"', "dtype": "float32", "shape": [None]}]
    write_json(package / "package.json", spec)
    _, lines = written(package, tmp_path)
    assert r'output [ { name: "a \"score\"" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]' in lines


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Triton(version=0)
