"""Export to LiteRT (TensorFlow Lite); the converter is installed separately."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from lepton_tasks.core.catalogue import CODECS
from lepton_tasks.core.errors import ArtifactError, ConfigError
from lepton_tasks.training.checkpoint import read_checkpoint

_LARGEST = 1e-4  # deviation from torch on the package's example; relative for values above 1


class Litert:
    """``model.tflite``: the network of a checkpoint, for one row at a time.

    The converter takes torch modules, not ONNX, so a package alone is not enough.

    Args:
        checkpoint: Folder of the package's checkpoint, e.g. ``.lepton/artifacts/train/<id>``.

    Source: https://github.com/google-ai-edge/litert-torch
    """

    def __init__(self, *, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def write(self, package: Path, output: Path) -> Path:
        """The folder `output`/<name>.

        Raises:
            ConfigError: the converter is not installed.
            ArtifactError: the converted network's output differs from torch's.
        """
        if importlib.util.find_spec("litert_torch") is None:
            raise ConfigError(
                "the converter `litert_torch` is not installed.",
                where="--format litert",
                fix="Install litert-torch 0.10 into a copy of this environment; it brings jax and transformers.",
            )
        import litert_torch

        spec = json.loads((package / "package.json").read_text())
        codec = CODECS.build(spec["input_codec"]["name"], spec["input_codec"]["params"])
        sample = codec.decode((package / f"example{codec.suffix}").read_bytes())[np.newaxis]
        network, row = read_checkpoint(self.checkpoint).deployable, torch.from_numpy(sample)
        with torch.inference_mode():
            expected = network(row)
        converted = litert_torch.convert(network, (row,))
        given = converted(row)
        for wanted, found in zip(_several(expected), _several(given), strict=True):
            apart = np.abs(np.asarray(found, np.float64) - wanted) / np.maximum(1, np.abs(wanted))
            if not np.all(apart <= _LARGEST):
                raise ArtifactError(f"LiteRT's answer differs by {apart.max():.2g} from torch's.", where=str(package))
        folder: Path = output / spec["name"]
        folder.mkdir(parents=True, exist_ok=True)
        converted.export(str(folder / "model.tflite"))
        return folder


def _several(outputs: object) -> list[np.ndarray]:
    """One or several outputs as arrays."""
    values = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [np.asarray(value) for value in values]
