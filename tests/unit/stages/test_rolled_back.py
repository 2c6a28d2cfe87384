"""A version that a repair took back is deployed by no run, unless a person has deployed it since."""

import pytest
from alerts import USE_CASE

from lepton_tasks.core.artifacts import ModelPackageRef, ModelVersionRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError
from lepton_tasks.stages import deploy
from lepton_tasks.tracking import mlflow

VERSION = ModelVersionRef(uri="store://register/1", digest="1", stage="register", facts={"version": "2"})
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
            return None

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
        deploy.deploy(USE_CASE, RunContext.local(tmp_path), model_version=VERSION, package=PACKAGE)
    if error is GateError:
        assert str(caught.value) == (
            "wine.yaml: version 2 was rolled back by a repair: 7 % failed. "
            "`lepton deploy wine 2` deploys it; other data or settings make another."
        )
