import base64
import json
import time

import httpx
import pytest
import tiny_packages
from containers import CONTAINED, Engine, missing, until
from free_ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]

SERVING, AIRFLOW = "localhost/lepton-serving-test", "localhost/lepton-airflow-test"


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture(scope="module")
def serving_image(engine):
    size = engine.build("Dockerfile.serving", SERVING)
    print(f"\nserving image: {size:.0f} MB with its base")
    return SERVING


@pytest.fixture(scope="module")
def airflow_image(engine):
    size = engine.build("Dockerfile.airflow", AIRFLOW, UV_COMPILE_BYTECODE="0")
    print(f"\nairflow image: {size:.0f} MB with its base, without byte code")
    return AIRFLOW


def test_serving_image_holds_what_serving_imports_and_nothing_heavier(engine, serving_image):
    code = """
import importlib, importlib.util, json, os, pkgutil
import lepton_tasks.codecs, lepton_tasks.core, lepton_tasks.serving
modules = [m.name for p in (lepton_tasks.codecs, lepton_tasks.core, lepton_tasks.serving)
           for m in pkgutil.iter_modules(p.__path__, p.__name__ + ".")
           if m.name not in ("lepton_tasks.serving.__main__", "lepton_tasks.serving.client")]
for name in modules:
    importlib.import_module(name)
heavy = ("torch", "mlflow", "dask", "great_expectations", "pandas", "airflow")
print(json.dumps({"modules": len(modules), "heavy": [n for n in heavy if importlib.util.find_spec(n)],
                  "uid": os.getuid(), "files": sorted(os.listdir("lepton_tasks"))}))
"""
    seen = json.loads(engine.podman("run", "--rm", *CONTAINED, serving_image, "python", "-c", code))
    assert seen["heavy"] == []
    assert seen["uid"] == 10001
    assert seen["modules"] > 10
    assert {"core", "codecs", "serving"} < set(seen["files"])
    assert not {"training", "stages", "learning"} & set(seen["files"])


def test_serving_container_predicts_and_keeps_its_model_over_a_restart(engine, serving_image, tmp_path):
    digest = tiny_packages.make_package(tmp_path / "tiny")
    port = free_port()
    key = "lepton_of-a-test"
    contained = (*CONTAINED, "--volume", "/var/lib/lepton")
    with pytest.raises(AssertionError, match="other machines could send requests without a key"):
        engine.podman("run", "--rm", *contained, serving_image)
    flags = (*contained, "--publish", f"127.0.0.1:{port}:8100", "--env", f"LEPTON_API_KEY={key}")
    mount = f"{tmp_path / 'tiny'}:/packages/tiny:ro"
    bearer = {"Authorization": f"Bearer {key}"}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, headers=bearer)
    body = {"image": base64.b64encode(tiny_packages.picture(200)).decode()}

    def ready():
        try:
            return client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    with client, engine.container(*flags, "--volume", mount, serving_image) as container:
        print(f"ready after {until(ready, 60):.1f} s")
        token = engine.podman("exec", container, "cat", "/var/lib/lepton/serving/admin.token")
        deployed = client.post(
            "/admin/models/tiny",
            json={"package": "/packages/tiny", "version": "1", "digest": digest, "by": "test"},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert deployed.status_code == 200, deployed.text
        answer = client.post("/v1/models/tiny/predict", json=body).json()["predictions"][0]
        assert answer["label"] == "dark"
        assert answer["probability"] == pytest.approx(1 - 200 / 510, abs=1e-6)

        assert client.post("/v1/models/tiny/predict", json=body, headers={"Authorization": ""}).status_code == 401

        engine.podman("healthcheck", "run", container)
        with pytest.raises(AssertionError, match="Read-only file system"):
            engine.podman("exec", container, "touch", "/opt/lepton/x")

        began = time.monotonic()
        engine.podman("stop", "--time", "25", container)
        seconds = time.monotonic() - began
        print(f"stopped after {seconds:.1f} s")
        assert engine.podman("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        assert seconds < 15

        engine.podman("start", container)
        until(ready, 60)
        assert client.post("/v1/models/tiny/predict", json=body).json()["predictions"] == [answer]


def test_airflow_image_runs_airflow_mlflow_and_lepton(engine, airflow_image):
    flags = ("--rm", *CONTAINED, "--volume", "/var/lib/lepton")
    assert engine.podman("run", *flags, airflow_image).splitlines()[-1] == "3.3.2"

    code = """
import asyncpg, json, lepton_tasks, mlflow, os, psycopg2, torch
print(json.dumps({"mlflow": mlflow.__version__, "lepton": lepton_tasks.__file__, "uid": os.getuid(),
                  "two": torch.ones(2).sum().item()}))
"""
    seen = json.loads(engine.podman("run", *flags, airflow_image, "python", "-c", code).splitlines()[-1])
    assert seen == {"mlflow": "3.17.2", "lepton": "/opt/lepton/lepton_tasks/__init__.py", "uid": 10001, "two": 2.0}

    engine.podman("run", *flags, airflow_image, "lepton", "validate", "configs/use_cases/mnist_digits.yaml")
