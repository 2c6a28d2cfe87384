"""One pass over columns: a sketch of each that holds numbers, a counter of each that holds categories."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.rows import TableRows

Summaries = tuple[dict[str, NumericSketch], dict[str, CategoryCounter]]


def summarise(
    rows: TableRows,
    ctx: RunContext,
    *,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    bound: int = 10_000,
) -> Summaries:
    """A sketch of each column of numbers and a counter of each column of categories.

    Args:
        rows: Where the columns are.
        ctx: Says where to compute.
        numbers: Columns of numbers, truth values or times.
        categories: Columns of anything that can be equal.
        bound: Different categories that are counted one by one.
    """
    sketches = {name: NumericSketch() for name in numbers}
    counters = {name: CategoryCounter(bound) for name in categories}
    if not sketches and not counters:
        return sketches, counters
    task = functools.partial(_summarise, tuple(numbers), tuple(categories), bound)
    for part_sketches, part_counters in rows.select([*numbers, *categories]).map(task, ctx):
        for name, sketch in part_sketches.items():
            sketches[name].merge(sketch)
        for name, counter in part_counters.items():
            counters[name].merge(counter)
    return sketches, counters


def _summarise(numbers: Sequence[str], categories: Sequence[str], bound: int, frame: pl.DataFrame) -> Summaries:
    sketches = {name: NumericSketch() for name in numbers}
    counters = {name: CategoryCounter(bound) for name in categories}
    for name, sketch in sketches.items():
        sketch.update(frame[name])
    for name, counter in counters.items():
        counter.update(frame[name])
    return sketches, counters
