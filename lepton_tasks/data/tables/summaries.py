"""Statistics of columns by name, and their update without another pass over the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import polars as pl

from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.operations import Operation


@dataclasses.dataclass(frozen=True)
class Summaries:
    """Column statistics by name.

    Attributes:
        sketches: Sketches of numeric, boolean and time columns.
        counters: Value counts of any hashable columns.
    """

    sketches: dict[str, NumericSketch] = dataclasses.field(default_factory=dict)
    counters: dict[str, CategoryCounter] = dataclasses.field(default_factory=dict)

    def after(self, operations: Sequence[Operation]) -> Summaries:
        """The statistics after operations, as far as they follow without another pass over the rows."""
        sketches, counters = dict(self.sketches), dict(self.counters)
        for operation in operations:
            name = operation.column
            sketch, counter = sketches.get(name), counters.pop(name, None)
            if operation.kind in ("missing", "outside"):
                if counter is not None:
                    counters[name] = counter
                made = None if sketch is None else _marks(operation, sketch)
                name = str(operation.into)
            elif operation.kind == "clip":
                made = sketch and sketch.clipped(required_bound(operation.low), required_bound(operation.high))
            else:
                made = None if isinstance(operation.value, str) else sketch and sketch.filled(operation.value)
                if counter is not None and _holds(counter, operation.value):
                    counters[name] = counter.filled(operation.value)
            sketches.pop(name, None)
            if made is not None:
                sketches[name] = made
        return Summaries(sketches, counters)


def _marks(operation: Operation, sketch: NumericSketch) -> NumericSketch | None:
    """The sketch of a 0/1 indicator column; None if the number of ones is not known."""
    missing = sketch.nulls + sketch.nan
    rows = sketch.count + missing + sum(sketch.infinities)
    marked = count_outside(operation, sketch) if operation.kind == "outside" else missing
    if marked is None:
        return None
    made = NumericSketch()
    made.update_counts({0.0: rows - marked, 1.0: marked})
    return made


def count_outside(operation: Operation, sketch: NumericSketch) -> int | None:
    """Number of values out of the operation's bounds, including infinite ones; None if the sketch has only bins."""
    if sketch.values is None:
        return None
    values, counts = sketch.values
    beyond = (values < required_bound(operation.low)) | (values > required_bound(operation.high))
    return int(counts[beyond].sum()) + sum(sketch.infinities)


def required_bound(limit: float | None) -> float:
    """A bound of an operation that has both bounds."""
    assert limit is not None  # an operation with bounds has both
    return limit


def _holds(counter: CategoryCounter, value: Any) -> bool:
    """Whether the counter's values have the type of `value`."""
    kinds = {str: pl.String, int: pl.Int64, bool: pl.Boolean}
    return counter.values().dtype == kinds.get(type(value))
