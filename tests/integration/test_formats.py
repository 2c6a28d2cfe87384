"""A package written for MLflow, loaded as MLflow's own server loads it."""

import json

import numpy as np
import pytest
from tiny_packages import make_package
from typer.testing import CliRunner

from lepton_tasks.cli.app import app
from lepton_tasks.serving.package import load_package


def test_mlflow_answers_as_the_package_does(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    make_package(tmp_path / "package", offset=0.2)
    options = ["--format", "mlflow", "--output", str(tmp_path / "models"), "--json"]
    ran = CliRunner().invoke(app, ["package", "export", str(tmp_path / "package"), *options])
    assert ran.exit_code == 0, ran.output
    folder = json.loads(ran.output.splitlines()[-1])["folder"]
    import mlflow

    model = mlflow.pyfunc.load_model(folder)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    expected = load_package(tmp_path / "package").run(images)["probabilities"]
    np.testing.assert_allclose(model.predict({"image": images})["probabilities"], expected, atol=1e-6)
    assert model.metadata.metadata["lepton.labels"] == ["dark", "light"]
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 8, 8, 1)
    with pytest.raises(mlflow.exceptions.MlflowException):
        model.predict({"image": images.astype(np.float32)})
