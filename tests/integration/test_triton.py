"""Exported model repositories, loaded and served by Triton itself (its core, from the wheel of PyTriton).

Its interface to Python needs NumPy 1, so it has an environment of its own, which ``LEPTON_TEST_TRITON`` names:
``python3 -m venv FOLDER`` and ``FOLDER/bin/pip install --no-deps nvidia-pytriton 'numpy<2' onnxruntime``.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from free_ports import free_port
from tiny_packages import LABELS, make_package, make_sums

from lepton_tasks.core.errors import DataError
from lepton_tasks.deployment.formats.triton import Triton
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.errors import UnknownModelError
from lepton_tasks.serving.package import load_package

ENVIRONMENT = os.environ.get("LEPTON_TEST_TRITON")
pytestmark = pytest.mark.skipif(ENVIRONMENT is None, reason="LEPTON_TEST_TRITON names no environment with Triton in it")


def _backends(installed, folder):
    """Triton's backend for Python models, and by it one called `onnxruntime`."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "python"
    shutil.copytree(installed / "backends" / "python", python)
    shutil.copy(installed / "python_backend_stubs" / version / "triton_python_backend_stub", python)
    (folder / "onnxruntime").mkdir()
    shutil.copy(Path(__file__).parents[1] / "triton_backend.py", folder / "onnxruntime" / "model.py")
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    make_package(folder / "tiny", offset=0.1)
    make_sums(folder / "sums", "tabular", {"columns": []}, shape=(3,))
    make_sums(folder / "unbatched", "tabular", {"columns": []}, shape=(3,), name="unbatched")
    return folder


@pytest.fixture(scope="module")
def url(packages, tmp_path_factory):
    """A Triton server with all packages."""
    wheels = next(Path(ENVIRONMENT).glob("lib/python*/site-packages"))
    installed = wheels / "pytriton" / "tritonserver"
    folder = tmp_path_factory.mktemp("triton")
    for name in ("tiny", "sums"):
        Triton(queue_delay=1000).write(packages / name, folder / "repository")
    Triton(version=3, max_batch=0).write(packages / "unbatched", folder / "repository")
    port = free_port()
    command = [installed / "bin" / "tritonserver", f"--model-repository={folder / 'repository'}"]
    command += [f"--backend-directory={_backends(installed, folder / 'backends')}", "--disable-auto-complete-config"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    libraries = [str(wheels / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    variables = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{ENVIRONMENT}/bin:{os.environ['PATH']}",  # where its Python finds packages
    }
    log = folder / "triton.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=stream, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{address}/v2/health/ready", trust_env=False).is_success:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError(log.read_text())
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_triton_answers_as_the_package_does(url, packages, binary):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    with Client(url) as client:
        answer = client.infer("tiny", {"image": images}, binary=binary)
    expected = load_package(packages / "tiny").run(images)["probabilities"]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    assert (answer.model, answer.version) == ("tiny", "1")


def test_a_number_for_each_row_has_a_dimension_of_its_own(url, packages):
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with Client(url) as client:
        answer = client.infer("sums", {"row": rows})["value"]
    np.testing.assert_allclose(answer, load_package(packages / "sums").run(rows)["value"][:, np.newaxis], rtol=1e-6)


def test_without_batches_numbers_are_as_the_graph_gives_them(url, packages):
    rows = np.random.default_rng(0).normal(size=(4, 3))
    with Client(url) as client:
        answer = client.infer("unbatched", {"row": rows})
    np.testing.assert_array_equal(answer["value"], load_package(packages / "unbatched").run(rows)["value"])
    assert answer.version == "3"


def test_labels_come_along(url):
    image = np.full((1, 8, 8, 1), 250, np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": image.shape, "data": image.ravel().tolist()}
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    body = {"inputs": [tensor], "outputs": [wanted]}
    found = httpx.post(f"{url}/v2/models/tiny/infer", json=body, trust_env=False).json()["outputs"][0]["data"]
    assert [entry.split(":")[2] for entry in found] == [LABELS[1], LABELS[0]]  # the likelier first


def test_the_client_reads_what_triton_says(url):
    with Client(url) as client:
        assert client.ready()
        assert client.metadata("tiny")["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
        with pytest.raises(DataError, match=r"Expected \[-1,8,8,1\], got \[1,7,8,1\]"):
            client.infer("tiny", {"image": np.zeros((1, 7, 8, 1), np.uint8)})
        with pytest.raises(UnknownModelError, match="nothing"):
            client.infer("nothing", {"image": np.zeros((1, 8, 8, 1), np.uint8)})
