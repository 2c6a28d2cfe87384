"""Cleaning step for bounding boxes outside their image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa
import pydantic

from lepton_tasks.data.rows import OPTIONAL_COLUMNS

_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Clip boxes to the image and drop empty ones, or reject such rows.

    Every change is recorded. A row without remaining boxes is kept as a negative example.

    Args:
        repair: Whether to clip and drop; otherwise rows with such boxes are rejected.
        min_side: Boxes with a smaller side, in pixels, count as empty.
    """

    repair: bool = True
    min_side: Annotated[float, pydantic.Field(gt=0)] = 2.0

    def revise(self, probes: pa.Table) -> tuple[pa.Table, Sequence[str | None]]:
        """The rows with boxes inside the image, and the changes of each."""
        if not self.repair or "boxes" not in probes.column_names:
            return probes, [None] * probes.num_rows
        revised, notes = [], []
        for boxes, width, height in self._rows(probes):
            fitting = boxes
            if boxes and width is not None and height is not None:
                clipped = [_clipped(box, width, height) for box in boxes]
                fitting = [box for box in clipped if not self._empty(box)]
            revised.append(fitting)
            notes.append(self._note(boxes or [], fitting or []))
        at = probes.column_names.index("boxes")
        return probes.set_column(at, "boxes", pa.array(revised, OPTIONAL_COLUMNS["boxes"])), notes

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The first box outside the image. Undecodable images have no size and pass."""
        if "boxes" not in probes.column_names:
            return [None] * probes.num_rows
        return [
            next((fault for box in boxes if (fault := self._fault(box, width, height))), None)
            if boxes and width is not None and height is not None
            else None
            for boxes, width, height in self._rows(probes)
        ]

    def _rows(self, probes: pa.Table) -> list[tuple[list[dict[str, Any]] | None, int | None, int | None]]:
        return list(zip(*(probes[name].to_pylist() for name in ("boxes", "width", "height")), strict=True))

    def _empty(self, box: dict[str, Any]) -> bool:
        return not (box["xmax"] - box["xmin"] >= self.min_side and box["ymax"] - box["ymin"] >= self.min_side)

    def _fault(self, box: dict[str, Any], width: int, height: int) -> str | None:
        if self._empty(box):
            return f"an empty box: {_describe(box)}"
        return (
            None if box == _clipped(box, width, height) else f"a box beyond {width} x {height} pixels: {_describe(box)}"
        )

    def _note(self, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str | None:
        dropped = len(before) - len(after)
        clipped = sum(box not in before for box in after)
        notes = [f"{dropped} empty dropped"] * bool(dropped) + [f"{clipped} clipped"] * bool(clipped)
        return f"of {len(before)} boxes, {' and '.join(notes)}" if notes else None


def _clipped(box: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    limits = (width, height, width, height)
    # NaN is kept and makes the box empty.
    sides = {
        side: value if math.isnan(value := box[side]) else min(max(value, 0.0), float(limit))
        for side, limit in zip(_SIDES, limits, strict=True)
    }
    return {**box, **sides}


def _describe(box: dict[str, Any]) -> str:
    return f"{box['label']} {', '.join(f'{side} {box[side]:g}' for side in _SIDES)}"
