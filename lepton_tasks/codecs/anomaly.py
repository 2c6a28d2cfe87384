"""Output codec of anomaly detection: scores and errors -> JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

CELL = 8
"""Side of the cells over which errors are averaged, in pixels or steps."""


@dataclasses.dataclass(frozen=True)
class AnomalyCodec:
    """Anomaly score, decision and location.

    Args:
        sides: Height and width of an image in pixels, or steps of a window.
        cell: Side of a cell, in pixels or steps.
    """

    sides: tuple[int, ...]
    cell: int

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """Decision, score, threshold and location of the largest error of one row.

        ``where`` is the cell as a box in pixels of the network's input (``xmin, ymin, xmax, ymax``), or its first and
        last step, counted from 0.
        """
        errors = outputs["errors"][row]
        cell = np.unravel_index(int(errors.argmax()), errors.shape)
        starts = [int(index) * self.cell for index in cell]
        ends = [min(start + self.cell, side) for start, side in zip(starts, self.sides, strict=True)]
        if len(self.sides) == 2:
            where = {"xmin": starts[1], "ymin": starts[0], "xmax": ends[1], "ymax": ends[0]}
        else:
            where = {"first_step": starts[0], "last_step": ends[0] - 1}
        return {
            "is_anomaly": bool(outputs["is_anomaly"][row]),
            "score": float(outputs["score"][row]),
            "threshold": float(outputs["threshold"][row]),
            "where": where,
        }
