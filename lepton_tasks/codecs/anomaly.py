"""Output codec of anomaly detection: scores and errors -> JSON answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

CELL = 8
"""Pixels or steps a side of the cells that errors are averaged over."""


@dataclasses.dataclass(frozen=True)
class AnomalyCodec:
    """Anomaly score, decision and location.

    Args:
        sides: Height and width of a picture in pixels, or steps of a window.
        cell: Pixels or steps a side of a cell.
    """

    sides: tuple[int, ...]
    cell: int

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """One row: whether it is an anomaly, score and threshold, and where the largest error is.

        ``where`` is the box of a cell in pixels of the array that the network saw (``xmin, ymin, xmax, ymax``), or the
        first and last step of it, counted from 0.
        """
        errors = outputs["errors"][row]
        place = np.unravel_index(int(errors.argmax()), errors.shape)
        starts = [int(index) * self.cell for index in place]
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
