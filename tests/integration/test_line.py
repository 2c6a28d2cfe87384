"""The whole line by `lepton run`, and what must hold when parts of it fail: MLflow and serving are real processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from free_ports import free_ports

from lepton_tasks.core.environment import project_root
from lepton_tasks.deployment import embedded
from lepton_tasks.deployment.embedded_processes import running_processes, stop
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.package import load_package
from lepton_tasks.stages.pipeline import STAGES
from lepton_tasks.tracking import registry

pytestmark = pytest.mark.slow

USE_CASE = "configs/use_cases/mnist_digits.yaml"
QUICK = ["--set", "train.epochs=2", "--set", "model.params.width=8", "--set", "gate.thresholds.accuracy=0.5"]


class Line:
    """One state folder with its services."""

    def __init__(self, root):
        self.root = root
        airflow, mlflow, serving = free_ports(3)
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "LEPTON_HOME": str(root),
            "LEPTON_AIRFLOW_PORT": str(airflow),
            "LEPTON_MLFLOW_PORT": str(mlflow),
            "LEPTON_SERVING_PORT": str(serving),
        }
        self.tracking_url = f"http://127.0.0.1:{mlflow}"
        self.serving_url = f"http://127.0.0.1:{serving}"

    def lepton(self, *arguments):
        """Exit status and the JSON object of a `lepton` command."""
        command = [sys.executable, "-m", "lepton_tasks.cli", *arguments, "--json"]
        ran = subprocess.run(command, cwd=project_root(), env=self.variables, capture_output=True, text=True)
        assert ran.stdout, ran.stderr
        return ran.returncode, json.loads(ran.stdout.splitlines()[-1])

    def run(self, *changes):
        return self.lepton("run", USE_CASE, *QUICK, *changes)

    def champion(self):
        return registry.alias(self.tracking_url, "mnist_digits", "champion")["version"]

    def served(self):
        with Client(self.serving_url) as client:
            return next(m["version"] for m in client.models() if m["name"] == "mnist_digits")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    line = Line(tmp_path_factory.mktemp("line"))
    try:
        yield line
    finally:
        embedded.down(line.root)
        assert not running_processes(line.root)


@pytest.fixture(scope="module")
def first(line):
    return line.run()


def test_a_run_ends_with_a_served_model(line, first, tmp_path):
    code, result = first
    assert code == 0, result
    assert [(name, stage["state"]) for name, stage in result["stages"].items()] == [(s.name, "success") for s in STAGES]
    assert result["metrics"]["test_accuracy"] > 0.8
    assert (result["model_version"], line.champion(), line.served()) == ("1", "1", "1")
    example = next((line.root / "artifacts" / "verify_package").glob("*/example.png"))
    picture = tmp_path / "digit.png"
    picture.write_bytes(example.read_bytes())
    code, reply = line.lepton("predict", "mnist_digits", str(picture))
    expected = json.loads(example.with_name("expected.json").read_text())
    answer = reply["answers"][0]["predictions"][0]
    assert code == 0
    assert answer["label"] == expected["label"]
    assert answer["probability"] == pytest.approx(expected["probabilities"][expected["label"]], abs=1e-4)


def test_the_run_in_mlflow_is_complete(line, first):
    from mlflow import MlflowClient

    client = MlflowClient(line.tracking_url, line.tracking_url)
    version = client.get_model_version("mnist_digits", "1")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "2"
    assert run.data.metrics["test_accuracy"] == pytest.approx(first[1]["metrics"]["test_accuracy"])
    assert len(client.get_metric_history(version.run_id, "train_loss")) == 2
    top = {file.path for file in client.list_artifacts(version.run_id)}
    assert {"use_case.yaml", "plots", "quality", "cleaning", "package"} <= top
    plots = {file.path for file in client.list_artifacts(version.run_id, "plots")}
    assert {"plots/confusion_matrix.png", "plots/worst.png"} <= plots
    read = {one.dataset.name: (one.tags[0].value, json.loads(one.dataset.profile)) for one in run.inputs.dataset_inputs}
    (features,) = (line.root / "artifacts" / "transform").glob("*/_ref.json")
    ref = json.loads(features.read_text())
    assert read == {
        f"mnist_digits {split}": (context, {"num_rows": ref["facts"][f"{split}_rows"]})
        for split, context in (("train", "training"), ("validation", "validation"), ("test", "testing"))
    }
    assert {one.dataset.digest for one in run.inputs.dataset_inputs} == {ref["digest"][:36]}
    assert len(version.tags["lepton.data_digest"]) == 64
    assert version.tags["lepton.git_commit"]
    assert version.description.startswith("# ")
    assert set(client.get_registered_model("mnist_digits").aliases) == {"champion"}


def test_mlflow_loads_the_registered_model_and_answers_alike(line, first, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", line.tracking_url)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", line.tracking_url)
    model = mlflow.pyfunc.load_model("models:/mnist_digits@champion")
    package = load_package(next((line.root / "artifacts" / "verify_package").glob("*")))
    payload, expected = package.example()
    answer = model.predict({"image": package.codec.decode(payload)[np.newaxis]})
    probabilities = list(expected["probabilities"].values())
    np.testing.assert_allclose(answer["probabilities"][0], probabilities, atol=1e-5)


def test_nothing_changed_nothing_runs(line, first):
    code, result = line.run()
    assert code == 0
    ran = [name for name, stage in result["stages"].items() if not stage["cached"]]
    assert set(ran) <= {"gate", "smoke_test", "monitor"}  # the champion is another one than before the first run
    assert line.champion() == "1"
    assert line.run()[1]["stages"]["gate"]["cached"]


def test_a_model_that_fails_its_gate_leaves_the_champion(line, first):
    code, result = line.run("--set", "gate.thresholds.accuracy=0.9999")
    assert code == 1
    error = result["stages"]["gate"]["error"]
    assert error["type"] == "GateError"
    assert "accuracy" in error["what"]
    assert "0.9999" in error["what"]
    assert "export" not in result["stages"]
    assert (line.champion(), line.served()) == ("1", "1")


def test_a_worse_model_than_the_champion_is_not_promoted(line, first):
    # One step of training is as good as none.
    code, result = line.run("--set", "train.learning_rate=1e-9", "--set", "gate.thresholds.accuracy=0.0")
    assert code == 1
    assert "champion" in result["stages"]["gate"]["error"]["what"]
    assert (line.champion(), line.served()) == ("1", "1")


def test_without_mlflow_register_fails_plainly_and_the_champion_is_served(line, first):
    changed = ["--set", "title=Digits again", "--until", "verify_package"]
    assert line.run(*changed)[0] == 0
    stop(line.root, ["mlflow"])
    try:
        # The address is not this machine's default any more, so that the command does not start MLflow by itself.
        line.variables["LEPTON_TRACKING_URL"] = line.tracking_url.replace("127.0.0.1", "127.0.0.2")
        code, result = line.run("--set", "title=Digits again")
    finally:
        del line.variables["LEPTON_TRACKING_URL"]
    assert code == 1
    failed = {name: stage["error"] for name, stage in result["stages"].items() if stage["state"] == "failed"}
    assert [error["type"] for error in failed.values()] == ["UnavailableError"]
    assert line.served() == "1"
    code, result = line.run("--set", "title=Digits again")  # MLflow is started again, and the rest follows
    assert code == 0
    assert (result["model_version"], line.champion(), line.served()) == ("2", "2", "2")
    assert registry.alias(line.tracking_url, "mnist_digits", "previous")["version"] == "1"
    assert registry.aliases(line.tracking_url)["mnist_digits"]["champion"] == "2"


@pytest.fixture
def second(line, first):
    """Two registered versions, of which the second one is the champion."""
    if line.champion() == "1":
        assert line.run("--set", "title=Digits again")[0] == 0


def test_a_registered_version_is_deployed_promoted_and_taken_back_by_hand(line, second):
    champion = line.champion()
    code, held = line.lepton("deploy", "mnist_digits", "1", "--hold")
    assert (code, held["version"], held["challenger"]["version"]) == (0, champion, "1")
    assert registry.aliases(line.tracking_url)["mnist_digits"]["challenger"] == "1"
    assert line.served() == champion
    code, promoted = line.lepton("promote", "mnist_digits")
    assert (code, promoted["version"], line.champion(), line.served()) == (0, "1", "1", "1")
    code, back = line.lepton("rollback", "mnist_digits")
    assert (code, back["version"], back["undone"]) == (0, champion, "1")
    assert (line.champion(), line.served()) == (champion, champion)
    assert registry.alias(line.tracking_url, "mnist_digits", "previous") is None
    assert line.lepton("deploy", "mnist_digits", "77")[0] == 2
    code, compared = line.lepton("ab", "mnist_digits")
    assert (code, compared["name"]) == (0, "mnist_digits")


def test_a_registered_version_survives_a_kill_between_registry_and_store(line, first):
    folder = next(iter((line.root / "artifacts" / "register").glob("*")))
    before = line.champion()
    (folder / "_ref.json").unlink()  # as if the process had been killed just before it published
    code, result = line.run("--set", "title=Digits again")
    assert code == 0
    assert result["model_version"] == before
