"""Output codec of classification: class probabilities -> JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class LabelsCodec:
    """Label probabilities.

    Args:
        labels: Class names, in the order of the model's outputs.
    """

    labels: list[str]

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """The most likely label and all probabilities of one row of ``probabilities`` (float32 [N, classes])."""
        probabilities = [float(p) for p in outputs["probabilities"][row]]
        best = int(np.argmax(outputs["probabilities"][row]))
        return {
            "label": self.labels[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(self.labels, probabilities, strict=True)),
        }
