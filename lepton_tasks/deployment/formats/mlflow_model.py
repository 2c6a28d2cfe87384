"""Export format `mlflow`: an ONNX model for `mlflow models serve` and `mlflow.pyfunc.load_model`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lepton_tasks.core.catalogue import CODECS
from lepton_tasks.core.errors import ConfigError


class MlflowModel:
    """A folder with ``MLmodel``; its inputs are tensors as the codec decodes them."""

    def write(self, package: Path, output: Path) -> Path:
        """Write the folder `output`/<name>; raises `ConfigError` if it exists already."""
        import mlflow.onnx
        import onnx

        from lepton_tasks.tracking.mlflow import requirements, signature

        spec = json.loads((package / "package.json").read_text())
        folder: Path = output / spec["name"]
        if folder.exists():
            raise ConfigError("it exists already.", where=str(folder), fix="Remove it, or choose another --output.")
        codec = CODECS.build(spec["input_codec"]["name"], spec["input_codec"]["params"])
        payload = package / f"example{codec.suffix}"
        names = [tensor["name"] for tensor in spec["inputs"]]
        example = {names[0]: codec.decode(payload.read_bytes())[np.newaxis]} if payload.exists() else None
        network = onnx.load(package / "model.onnx")
        mlflow.onnx.save_model(
            network,
            str(folder),
            signature=signature(network, names),
            input_example=example,
            pip_requirements=requirements(),
            onnx_execution_providers=["CPUExecutionProvider"],
            metadata={"lepton.task": spec["task"], "lepton.labels": spec["labels"]},
        )
        return folder
