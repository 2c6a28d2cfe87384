"""Report what fitted steps did to the training rows: counts and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.order import NamedStep
from lepton_tasks.data.tables.rows import ROW, TableRows
from lepton_tasks.data.tables.statistics import Summaries, number, outside, summarise

_EXAMPLES = 3
_FIRST_ROWS = 20_000
_LOOKED_AT = 4  # parts that are read for examples at most: rare values need not be worth a pass of their own


def changes_by(named: NamedStep, fitted: Mapping[str, Any], rows: TableRows, ctx: RunContext) -> dict[str, Any]:
    """An entry of the report: for each column how many values the step fills, or finds out of bounds, and a few.

    Values out of bounds are counted exactly where a column has few different ones; else they may be off by what lies
    within 0.2 % of a bound, and `exact` says so. Rows that a step refuses are counted by the transform stage.

    Args:
        named: The step.
        fitted: What it learned.
        rows: The training rows before it.
        ctx: The run.
    """
    changing = [operation for operation in named.step.operations(fitted) if operation.kind != "missing"]
    columns = list(dict.fromkeys(operation.column for operation in changing))
    numbers = [name for name in columns if rows.schema[name].is_numeric()]
    others = [name for name in columns if name not in numbers]
    found = summarise(rows, ctx, numbers=numbers, categories=others, moments=())
    return {
        "step": named.spec.name,
        "code": named.code,
        "rows_in": rows.height,
        "columns": [_change(operation, rows, found) for operation in changing],
    }


def _change(operation: Operation, rows: TableRows, found: Summaries) -> dict[str, Any]:
    filled, beyond, exact = _counts(operation, found)
    return {
        "column": operation.column,
        "done": "mark" if operation.kind == "outside" else operation.kind,
        "filled": filled,
        "outside": beyond,
        "exact": exact,
        "examples": _examples(operation, rows) if filled or beyond else [],
    }


def _counts(operation: Operation, found: Summaries) -> tuple[int, int, bool]:
    """Values filled, values out of bounds, and whether these are exact."""
    sketch = found.sketches.get(operation.column)
    if sketch is None:
        return found.counters[operation.column].nulls, 0, True
    if operation.kind == "fill":
        return sketch.nulls + sketch.nan, 0, True
    exact = outside(operation, sketch)
    return 0, _about_outside(operation, sketch) if exact is None else exact, exact is not None


def _about_outside(operation: Operation, sketch: NumericSketch) -> int:
    """Values out of bounds where the sketch holds bins, not values."""
    below, within = sketch.count_below([number(operation.low), number(operation.high)])
    return round(float(below + sketch.count - within)) + sum(sketch.infinities)


def _examples(operation: Operation, rows: TableRows) -> list[dict[str, Any]]:
    """Row, value before and value after; of a mark, the value that is marked."""
    for part in (rows.parts[0].head(_FIRST_ROWS), *rows.parts[:_LOOKED_AT]):
        before = rows.select([operation.column]).read(part)
        after = before.select(operation.expression(before.schema[operation.column])).to_series()
        old = before[operation.column]
        changed = after > 0 if operation.kind == "outside" else old.cast(after.dtype).ne_missing(after)
        found = pl.DataFrame({"row": before[ROW], "before": old, "after": after}).filter(changed).head(_EXAMPLES)
        if len(found):
            return found.to_dicts() if operation.kind != "outside" else found.drop("after").to_dicts()
    return []
