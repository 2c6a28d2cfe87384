"""Report of the fitted steps' effect on the training rows: counts and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.named_steps import NamedStep
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import ROW, TableRows
from lepton_tasks.data.tables.statistics import summarise
from lepton_tasks.data.tables.summaries import Summaries, count_outside, required_bound

_EXAMPLES = 3
_FIRST_ROWS = 20_000
_EXAMPLE_PARTS = 4  # maximum number of parts read for examples: rare values do not justify a full pass


def step_report(named: NamedStep, fitted: Mapping[str, Any], rows: TableRows, ctx: RunContext) -> dict[str, Any]:
    """Report entry of a step: per column the counts of filled and out-of-bounds values, with examples.

    Out-of-bounds counts are exact for columns with few distinct values; otherwise values within 0.2 % of a bound may
    be miscounted, and `exact` is false. Rejected rows are counted by the transform stage.

    Args:
        named: The step.
        fitted: Its fitted values.
        rows: The training rows before the step.
        ctx: Run context.
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
    """Number of filled values, of values out of bounds, and whether the counts are exact."""
    sketch = found.sketches.get(operation.column)
    if sketch is None:
        return found.counters[operation.column].nulls, 0, True
    if operation.kind == "fill":
        return sketch.nulls + sketch.nan, 0, True
    exact = count_outside(operation, sketch)
    return 0, _estimate_outside(operation, sketch) if exact is None else exact, exact is not None


def _estimate_outside(operation: Operation, sketch: NumericSketch) -> int:
    """Estimated number of values out of bounds, for a sketch with bins instead of values."""
    below, within = sketch.count_below([required_bound(operation.low), required_bound(operation.high)])
    return round(float(below + sketch.count - within)) + sum(sketch.infinities)


def _examples(operation: Operation, rows: TableRows) -> list[dict[str, Any]]:
    """Row, value before and value after; for ``outside``, the value itself."""
    for part in (rows.parts[0].head(_FIRST_ROWS), *rows.parts[:_EXAMPLE_PARTS]):
        before = rows.select([operation.column]).read(part)
        after = before.select(operation.expression(before.schema[operation.column])).to_series()
        old = before[operation.column]
        changed = after > 0 if operation.kind == "outside" else old.cast(after.dtype).ne_missing(after)
        found = pl.DataFrame({"row": before[ROW], "before": old, "after": after}).filter(changed).head(_EXAMPLES)
        if len(found):
            return found.to_dicts() if operation.kind != "outside" else found.drop("after").to_dicts()
    return []
