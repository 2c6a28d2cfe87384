"""What no run deploys: a version that a repair took back, or one that was not compared with the champion."""

import pytest
from alerts import USE_CASE

from lepton_tasks.core.artifacts import EvaluationRef, ModelPackageRef, ModelVersionRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError
from lepton_tasks.stages import deploy
from lepton_tasks.tracking import mlflow

VERSION = ModelVersionRef(uri="store://register/1", digest="1", stage="register", facts={"version": "2"})
VERDICT = EvaluationRef(uri="store://gate/1", digest="1", stage="gate", facts={"passed": True, "champion": "1"})
PACKAGE = ModelPackageRef(uri="store://verify_package/1", digest="1", stage="verify_package")


class Reached(Exception):
    """The target was asked to deploy."""


class Target:
    def __init__(self, version):
        self.version = version

    def health(self, use_case, ctx):
        return {"version": self.version}

    def deploy(self, *arguments):
        raise Reached


@pytest.fixture
def tags(monkeypatch):
    found = {}

    class Tracker:
        def __init__(self, url):
            pass

        def version(self, name, which):
            return mlflow.ModelVersion(name, which, "r", found)

        def champion(self, name):
            return found.get("champion")

    monkeypatch.setattr(mlflow, "Tracker", Tracker)
    return found


@pytest.mark.parametrize(
    ("tag", "served", "error"),
    [("7 % failed.", "1", GateError), ("7 % failed.", "2", Reached), ("", "1", Reached)],
)
def test_what_was_rolled_back_stays_away(tag, served, error, tags, tmp_path, monkeypatch):
    tags |= {"lepton.rolled_back": tag} if tag else {}
    monkeypatch.setattr(deploy, "target_of", lambda *_: Target(served))
    with pytest.raises(error) as caught:
        deploy.deploy(USE_CASE, RunContext.local(tmp_path), model_version=VERSION, package=PACKAGE, verdict=VERDICT)
    if error is GateError:
        assert str(caught.value) == (
            "wine.yaml: version 2 was rolled back by a repair: 7 % failed. "
            "`lepton deploy wine 2` deploys it; other data or settings make another."
        )


@pytest.mark.parametrize(
    ("champion", "run", "error"),
    [("1", "r", Reached), ("2", "r", Reached), ("3", "r", GateError), ("3", "mine", Reached)],
)
def test_a_champion_that_the_gate_has_not_seen_stays(champion, run, error, tags, tmp_path, monkeypatch):
    tags["champion"] = mlflow.ModelVersion("wine", champion, run, {})
    monkeypatch.setattr(deploy, "target_of", lambda *_: Target(champion))
    version = VERSION.model_copy(update={"facts": {"version": "2", "mlflow_run_id": "mine"}})
    with pytest.raises(error) as caught:
        deploy.deploy(USE_CASE, RunContext.local(tmp_path), model_version=version, package=PACKAGE, verdict=VERDICT)
    if error is GateError:
        assert "version 3 became champion after the gate had compared version 2 with version 1." in str(caught.value)
