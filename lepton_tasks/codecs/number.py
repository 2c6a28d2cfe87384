"""Output codec of regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class NumberCodec:
    """One number.

    Args:
        name: Key in the prediction.
    """

    name: str = "value"

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """One row of ``value`` (float32 [N])."""
        return {self.name: float(outputs["value"][row])}
