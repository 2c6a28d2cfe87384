"""Column statistics in one pass: sketches of numeric, counters of categorical columns."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.dictionaries import read_dictionaries, unchanged_text_columns
from lepton_tasks.data.tables.rows import ROW, Part, TableRows
from lepton_tasks.data.tables.summaries import Summaries


def summarise(
    rows: TableRows,
    ctx: RunContext,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    moments: Collection[str] | None = None,
) -> Summaries:
    """Sketches of numeric and counters of categorical columns.

    Columns in `rows.summaries` are not summarised again.

    Args:
        rows: The table.
        ctx: Run context.
        numbers: Numeric, boolean or time columns.
        categories: Columns to count values of.
        moments: Those of `numbers` that need mean and variance; None for all.
    """
    known = rows.summaries or Summaries()
    sketches = {name: known.sketches.get(name) or NumericSketch(sums=True) for name in numbers}
    counters = {name: known.counters.get(name, CategoryCounter()) for name in categories}
    new = tuple(n for n in numbers if n not in known.sketches), tuple(c for c in categories if c not in known.counters)
    if any(new):
        texts = [] if rows.changes else unchanged_text_columns(rows, new[1])
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
    """The sketches with mean and variance from another, cheaper pass."""
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
