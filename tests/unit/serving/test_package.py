import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_packages import expected, make_package, picture

from lepton_tasks.core.artifacts import ModelPackageRef
from lepton_tasks.core.errors import ArtifactError, DataError
from lepton_tasks.core.store import ArtifactStore
from lepton_tasks.serving.package import load_package, seal


def test_a_written_package_answers_as_computed_by_hand(tmp_path):
    make_package(tmp_path, offset=0.1)
    answer = load_package(tmp_path).predict(picture(100))
    assert answer["label"] == expected(100, 0.1)["label"] == "dark"
    assert answer["probabilities"] == pytest.approx(expected(100, 0.1)["probabilities"], abs=1e-6)


def test_run_takes_any_batch_size(tmp_path):
    make_package(tmp_path)
    images = np.full((5, 8, 8, 1), 51, np.uint8)
    assert load_package(tmp_path).run(images)["probabilities"][:, 1] == pytest.approx([0.1] * 5)


def test_its_digest_is_that_of_the_artifact_reference(tmp_path):
    draft = ArtifactStore(tmp_path).draft("export", "f" * 32)
    make_package(draft.path)
    ref = draft.publish(ModelPackageRef)
    assert load_package(ArtifactStore(tmp_path).open(ref)).digest == ref.digest


FILES = ["card.md", "example.png", "expected.json", "model.onnx", "package.json", "preprocessor.json", "parity.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_a_damaged_file_is_named(tmp_path, name, damage):
    make_package(tmp_path)
    (tmp_path / "parity.json").write_text("{}")  # as the last stage before registering adds it
    seal(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "manifest.json"])
    load_package(tmp_path)
    path = tmp_path / name
    if damage == "remove":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=name):
        load_package(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("dtype", "float32"), ("shape", [None, 8, 8, 3]), ("shape", [None, 8, 8]), ("name", "picture")],
)
def test_a_graph_of_another_signature_is_refused(tmp_path, key, value):
    make_package(tmp_path)
    spec = json.loads((tmp_path / "package.json").read_text())
    spec["inputs"][0][key] = value
    (tmp_path / "package.json").write_text(json.dumps(spec))
    seal(tmp_path)
    with pytest.raises(ArtifactError, match=r"the tensor 'image' is |no tensor 'picture'"):
        load_package(tmp_path)


@pytest.mark.parametrize("graph", [b"not a graph", b"\x08\x07"])
def test_a_graph_that_onnx_runtime_refuses(tmp_path, graph):
    make_package(tmp_path, onnx_bytes=graph)
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses the graph"):
        load_package(tmp_path)


def test_a_folder_that_is_no_package(tmp_path):
    with pytest.raises(ArtifactError, match="no model package"):
        load_package(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        load_package(tmp_path)


def test_undecodable_bytes_are_the_callers_fault(tmp_path):
    make_package(tmp_path)
    with pytest.raises(DataError):
        load_package(tmp_path).predict(b"no picture")


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Its reporting begins with a session file in the folder for temporary files."""
    make_package(tmp_path / "package")
    (tmp_path / "tmp").mkdir()
    load = "import pathlib, sys; from lepton_tasks.serving.package import load_package as load; "
    code = [load + "load(pathlib.Path(sys.argv[1]))", str(tmp_path / "package")]
    silencing = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
    variables = {name: value for name, value in os.environ.items() if name not in silencing}
    subprocess.run([sys.executable, "-c", *code], env={**variables, "TMPDIR": str(tmp_path / "tmp")}, check=True)
    assert list((tmp_path / "tmp").iterdir()) == []
