"""Column statistics in one pass: sketches of numeric, counters of categorical columns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.dictionaries import read_dictionaries, texts_as_they_lie
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import ROW, Part, TableRows


@dataclasses.dataclass(frozen=True)
class Summaries:
    """What is known of columns, by name.

    Attributes:
        sketches: Of columns of numbers, truth values or times.
        counters: Of columns of anything that can be equal.
    """

    sketches: dict[str, NumericSketch] = dataclasses.field(default_factory=dict)
    counters: dict[str, CategoryCounter] = dataclasses.field(default_factory=dict)

    def after(self, operations: Sequence[Operation]) -> Summaries:
        """What is known after operations without another look at the rows."""
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
                made = sketch and sketch.clipped(number(operation.low), number(operation.high))
            else:
                made = None if isinstance(operation.value, str) else sketch and sketch.filled(operation.value)
                if counter is not None and _holds(counter, operation.value):
                    counters[name] = counter.filled(operation.value)
            sketches.pop(name, None)
            if made is not None:
                sketches[name] = made
        return Summaries(sketches, counters)


def summarise(
    rows: TableRows,
    ctx: RunContext,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    moments: Collection[str] | None = None,
) -> Summaries:
    """A sketch of each column of numbers and a counter of each column of categories.

    What `rows.known` holds is not gathered again.

    Args:
        rows: Where the columns are.
        ctx: Says where to compute.
        numbers: Columns of numbers, truth values or times.
        categories: Columns of anything that can be equal.
        moments: Of which of `numbers` mean and spread must be known; None for all.
    """
    known = rows.known or Summaries()
    sketches = {name: known.sketches.get(name) or NumericSketch(sums=True) for name in numbers}
    counters = {name: known.counters.get(name, CategoryCounter()) for name in categories}
    new = tuple(n for n in numbers if n not in known.sketches), tuple(c for c in categories if c not in known.counters)
    if any(new):
        texts = [] if rows.changes else texts_as_they_lie(rows, new[1])
        others = tuple(name for name in new[1] if name not in texts)
        task = functools.partial(_summarise, new[0], others, tuple(texts))
        for part in rows.select(list(dict.fromkeys([*new[0], *others]))).map_parts(task, ctx):
            for name, sketch in part.sketches.items():
                sketches[name].merge(sketch)
            for name, counter in part.counters.items():
                counters[name].merge(counter)
    unsure = [name for name in (numbers if moments is None else moments) if np.isnan(sketches[name].mean)]
    return Summaries(sketches | _with_moments(rows, {name: sketches[name] for name in unsure}, ctx), counters)


def _summarise(
    numbers: Sequence[str], categories: Sequence[str], texts: Sequence[str], part: Part, frame: pl.DataFrame
) -> Summaries:
    found = Summaries(
        {name: NumericSketch(sums=True) for name in numbers},
        {name: CategoryCounter() for name in [*categories, *texts]},
    )
    for name, sketch in found.sketches.items():
        sketch.update(frame[name])
    for name in categories:
        found.counters[name].update(frame[name])
    seen = None if len(frame) == part.rows else frame[ROW].to_numpy() - part.first
    for name, dictionary in read_dictionaries(part, texts).items():
        counts = dictionary.counts(seen)
        found.counters[name].nulls = int(counts[0])
        found.counters[name].update_counts(dictionary.values, counts[1:])
    return found


def _with_moments(rows: TableRows, sketches: Mapping[str, NumericSketch], ctx: RunContext) -> dict[str, NumericSketch]:
    """The sketches with mean and spread of the rows, which a pass that counts nothing finds."""
    if not sketches:
        return {}
    found = {name: NumericSketch() for name in sketches}
    for part in rows.select(list(sketches)).map(functools.partial(_moments, tuple(sketches)), ctx):
        for name, moments in part.items():
            found[name].merge(moments)
    return {name: sketch.with_moments(found[name].mean, found[name].m2) for name, sketch in sketches.items()}


def _moments(names: Sequence[str], frame: pl.DataFrame) -> dict[str, NumericSketch]:
    found = {name: NumericSketch() for name in names}
    for name, sketch in found.items():
        sketch.update_moments(frame[name])
    return found


def _marks(operation: Operation, sketch: NumericSketch) -> NumericSketch | None:
    """The sketch of a column of marks; None if the counts do not tell how many there are."""
    missing = sketch.nulls + sketch.nan
    rows = sketch.count + missing + sum(sketch.infinities)
    marked = outside(operation, sketch) if operation.kind == "outside" else missing
    if marked is None:
        return None
    made = NumericSketch()
    made.update_counts({0.0: rows - marked, 1.0: marked})
    return made


def outside(operation: Operation, sketch: NumericSketch) -> int | None:
    """How many values are beyond the bounds of an operation, infinite ones too; None if the counts do not tell."""
    if sketch.values is None:
        return None
    values, counts = sketch.values
    beyond = (values < number(operation.low)) | (values > number(operation.high))
    return int(counts[beyond].sum()) + sum(sketch.infinities)


def number(limit: float | None) -> float:
    """A bound, which is there."""
    assert limit is not None  # an operation with bounds has both
    return limit


def _holds(counter: CategoryCounter, value: Any) -> bool:
    """Whether the values are of the type of `value`, so that it is counted as one of them."""
    kinds = {str: pl.String, int: pl.Int64, bool: pl.Boolean}
    return counter.values().dtype == kinds.get(type(value))
