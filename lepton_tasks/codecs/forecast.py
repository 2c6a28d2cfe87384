"""Output codec of forecasting: predicted values -> JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ForecastCodec:
    """Predicted values by time step.

    Args:
        target: Name of the target.
        step: Seconds between two rows.
    """

    target: str
    step: int

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """One row of ``forecast`` (float32 [N, horizon]); the first value is one step after the request's last row."""
        return {
            "target": self.target,
            "step_seconds": self.step,
            "forecast": [float(value) for value in outputs["forecast"][row]],
        }
