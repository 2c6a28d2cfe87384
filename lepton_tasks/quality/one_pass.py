"""Collect all statistics that checks need in one pass, with mergeable partial results."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter, DistinctCounter
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.rows import Rows

EXAMPLES = 1000
"""Maximum number of violating rows kept per rule."""
SAMPLE = 100_000
"""Maximum number of rows for rules that need the rows in memory."""


@dataclasses.dataclass(frozen=True)
class Order:
    """Values that should increase or decrease from row to row; equal ones are allowed unless `strictly`."""

    values: pl.Expr
    rises: bool
    strictly: bool

    def broken(self, last: Any, first: Any) -> bool:
        """Whether two neighbours violate the order."""
        return self.strictly if last == first else (last > first) == self.rises


@dataclasses.dataclass
class StatisticsRequest:
    """Requested statistics by key; each expression has one value per row. Picklable.

    Attributes:
        counts: Number of rows for which the expression is true.
        examples: For keys of `counts`, the columns to keep of the first `EXAMPLES` such rows.
        sums: Sum.
        ends: Minimum and maximum, in the column's type.
        numbers: `NumericSketch`.
        values: `CategoryCounter`.
        distinct: `DistinctCounter`.
        repeated: Number of rows whose hash is not unique; takes 8 bytes per row.
        orders: For keys of `counts` that count order violations, the order, to include violations between parts.
        sample: Keep every n-th row with these columns; None for no sample.
    """

    counts: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    examples: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    sums: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    ends: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    numbers: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    values: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    distinct: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    repeated: dict[str, pl.Expr] = dataclasses.field(default_factory=dict)
    orders: dict[str, Order] = dataclasses.field(default_factory=dict)
    sample: tuple[int, tuple[str, ...]] | None = None

    @property
    def columns(self) -> set[str]:
        """The columns to read."""
        groups = (self.counts, self.sums, self.ends, self.numbers, self.values, self.distinct, self.repeated)
        names = {name for group in groups for expr in group.values() for name in expr.meta.root_names()}
        names |= {name for columns in self.examples.values() for name in columns}
        return (names | set(self.sample[1] if self.sample else ())) - {ROW}


@dataclasses.dataclass
class Statistics:
    """Computed statistics by the keys of `StatisticsRequest`."""

    counts: dict[str, int]
    examples: dict[str, pl.DataFrame]
    sums: dict[str, Any]
    ends: dict[str, tuple[Any, Any]]
    numbers: dict[str, NumericSketch]
    values: dict[str, CategoryCounter]
    distinct: dict[str, DistinctCounter]
    hashes: dict[str, list[np.ndarray]]
    borders: dict[str, list[tuple[Any, Any, pl.DataFrame]]]
    sample: list[pl.DataFrame]

    def merge(self, other: Statistics) -> None:
        """Add the statistics of the next part."""
        for key, count in other.counts.items():
            self.counts[key] += count
        for key, frame in other.examples.items():
            if self.examples[key].height < EXAMPLES:
                self.examples[key] = pl.concat([self.examples[key], frame]).head(EXAMPLES)
        for key, value in other.sums.items():
            self.sums[key] += value
        for key, pair in other.ends.items():
            self.ends[key] = _wider(self.ends[key], pair)
        for key, sketch in other.numbers.items():
            self.numbers[key].merge(sketch)
        for key, counter in other.values.items():
            self.values[key].merge(counter)
        for key, different in other.distinct.items():
            self.distinct[key].merge(different)
        for key, hashes in other.hashes.items():
            self.hashes[key] += hashes
        for key, borders in other.borders.items():
            self.borders[key] += borders
        self.sample += other.sample


def measure(rows: Rows, request: StatisticsRequest, ctx: RunContext) -> Statistics:
    """Compute the statistics; a second pass is needed only if values that must be unique are repeated."""
    statistics: Statistics | None = None
    rows = rows.select(sorted(request.columns))
    for found in rows.map(functools.partial(_measure_part, request), ctx):
        if statistics is None:
            statistics = found
        else:
            statistics.merge(found)
    assert statistics is not None  # a table has at least one part, which may be empty
    _count_breaks(request, statistics)
    _count_repeated(rows, request, statistics, ctx)
    return statistics


def _measure_part(request: StatisticsRequest, frame: pl.DataFrame) -> Statistics:
    flags = frame.select(**request.counts)
    shown = request.counts.keys() & request.examples.keys()
    columns = frame.select(**_prefixed(n=request.numbers, v=request.values, d=request.distinct, h=request.repeated))
    lone = frame.select(
        **{f"s{key}": expr.sum() for key, expr in request.sums.items()},
        **{f"a{key}": expr.min() for key, expr in request.ends.items()},
        **{f"z{key}": expr.max() for key, expr in request.ends.items()},
    )
    sums = {key: lone[f"s{key}"][0] or 0 for key in request.sums}
    sample = [_sampled(frame, *request.sample)] if request.sample else []
    return Statistics(
        counts={key: int(flags[key].sum()) for key in request.counts},
        examples={key: _examples(frame, flags[key], request.examples[key]) for key in shown},
        sums=sums,
        ends={key: (lone[f"a{key}"][0], lone[f"z{key}"][0]) for key in request.ends},
        numbers={key: _sketch(columns[f"n{key}"]) for key in request.numbers},
        values={key: _counter(columns[f"v{key}"]) for key in request.values},
        distinct={key: _distinct(columns[f"d{key}"]) for key in request.distinct},
        hashes={key: [columns[f"h{key}"].drop_nulls().to_numpy()] for key in request.repeated},
        borders={key: _borders(frame, order, request.examples[key]) for key, order in request.orders.items()},
        sample=sample,
    )


def _prefixed(**groups: dict[str, pl.Expr]) -> dict[str, pl.Expr]:
    return {prefix + key: expr for prefix, group in groups.items() for key, expr in group.items()}


def _examples(frame: pl.DataFrame, flags: pl.Series, names: tuple[str, ...]) -> pl.DataFrame:
    return frame.select(ROW, *names)[flags.fill_null(False).arg_true().head(EXAMPLES)]


def _sampled(frame: pl.DataFrame, step: int, columns: tuple[str, ...]) -> pl.DataFrame:
    return frame.select(ROW, *columns).filter(pl.col(ROW) % step == 0)


def _borders(frame: pl.DataFrame, order: Order, names: tuple[str, ...]) -> list[tuple[Any, Any, pl.DataFrame]]:
    """First and last value of a part, and the row of the first; empty without values."""
    values = frame.select(order.values).to_series()
    present = values.is_not_null().arg_true()
    if not len(present):
        return []
    return [(values[present[0]], values[present[-1]], frame.select(ROW, *names)[present[0]])]


def _sketch(values: pl.Series) -> NumericSketch:
    sketch = NumericSketch()
    sketch.update(values)
    return sketch


def _counter(values: pl.Series) -> CategoryCounter:
    counter = CategoryCounter()
    counter.update(values)
    return counter


def _distinct(values: pl.Series) -> DistinctCounter:
    counter = DistinctCounter()
    counter.update(values.drop_nulls())
    return counter


def _wider(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
    lows = [low for low, _ in (first, second) if low is not None]
    highs = [high for _, high in (first, second) if high is not None]
    return min(lows, default=None), max(highs, default=None)


def _count_breaks(request: StatisticsRequest, statistics: Statistics) -> None:
    """Add the order violations between consecutive parts."""
    for key, order in request.orders.items():
        pairs = itertools.pairwise(statistics.borders[key])
        rows = [row for (_, last, _), (first, _, row) in pairs if order.broken(last, first)]
        statistics.counts[key] += len(rows)
        statistics.examples[key] = pl.concat([statistics.examples[key], *rows]).sort(ROW).head(EXAMPLES)


def _count_repeated(rows: Rows, request: StatisticsRequest, statistics: Statistics, ctx: RunContext) -> None:
    """Count rows with a repeated hash, and collect examples."""
    wanted: dict[str, pl.Series] = {}
    for key in request.repeated:
        hashes = np.concatenate(statistics.hashes.pop(key))
        order = np.sort(hashes)
        twice = order[1:] == order[:-1]
        repeated = np.unique(order[1:][twice])
        first = np.flatnonzero(np.isin(hashes, repeated))
        statistics.counts[key] = len(first)
        names = request.examples.get(key, ())
        statistics.examples[key] = pl.DataFrame(schema={ROW: pl.Int64(), **{name: rows.schema[name] for name in names}})
        if len(first):
            wanted[key] = pl.Series(np.unique(hashes[first[:EXAMPLES]]))
    if not wanted:
        return
    flags = {key: request.repeated[key].is_in(some.implode()) for key, some in wanted.items()}
    second = StatisticsRequest(counts=flags, examples={key: request.examples.get(key, ()) for key in wanted})
    found = measure(rows, second, ctx)
    statistics.examples |= found.examples
