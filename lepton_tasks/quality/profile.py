"""Data profile as JSON, for display, suites and comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.conditions import column
from lepton_tasks.quality.one_pass import Statistics, StatisticsRequest, measure
from lepton_tasks.quality.rows import Rows

TOP_VALUES = 50
_BINS = 40
_PERCENTILES = [i / 100 for i in range(101)]
_MOSTLY = 0.95  # share of rows that must meet a derived rule: in a small split, a single odd row is 1 %
_MAX_VALUE_LENGTH = 200  # stored characters of a value


def profile_of(rows: Rows, ctx: RunContext) -> dict[str, Any]:
    """Type, nulls, distinct and top values of each column, and the distribution of numbers and text lengths; one pass.

    Distinct values are exact up to 10,000, beyond estimated (0.8 % standard error). Quantiles have an error of at most
    0.2 % of their value; top numbers are listed for at most 1,024 distinct ones.
    """
    schema = {name: dtype for name, dtype in rows.schema.items() if not dtype.is_nested() and dtype != pl.Binary}
    statistics = measure(rows, _request(schema), ctx)
    columns = {name: _column(name, dtype, statistics) for name, dtype in schema.items()}
    return {"rows": statistics.counts["rows"], "columns": columns}


def rules_from(profile: Mapping[str, Any], *, slack: float = 0.1) -> list[Expectation]:
    """Rules for similar data, as warnings; a missing column is critical.

    Args:
        profile: Profile of the training rows.
        slack: Tolerance of ranges, as a fraction of the range, and of the share of missing values.
    """
    rules = []
    for name, about in profile["columns"].items():
        rules.append(Expectation(type="expect_column_to_exist", params={"column": name}))
        if not about["rows"] or about["nulls"] == about["rows"]:
            continue
        rows, share = about["rows"], about["nulls"] / about["rows"]
        rules.append(_warn("expect_column_values_to_not_be_null", name, mostly=max(0.0, 1 - share - slack)))
        if "mean" in about:
            room = slack * (about["max"] - about["min"])
            bounds = {"min_value": _rounded(about["min"] - room, -1), "max_value": _rounded(about["max"] + room, 1)}
            rules.append(_warn("expect_column_values_to_be_between", name, mostly=_MOSTLY, **bounds))
        elif about["type"] == "String" and about["distinct_exact"] and about["distinct"] <= min(TOP_VALUES, rows / 2):
            known = [value for value, _ in about["top"]]
            if all(len(value) < _MAX_VALUE_LENGTH for value in known):  # longer ones are stored truncated
                rules.append(_warn("expect_column_values_to_be_in_set", name, mostly=_MOSTLY, value_set=known))
    return rules


def compared_with(profile: Mapping[str, Any]) -> list[Expectation]:
    """`rules_from` for rows of the same table, where no column can be missing."""
    return [rule for rule in rules_from(profile) if rule.type != "expect_column_to_exist"]


def oddities_in(profile: Mapping[str, Any]) -> list[str]:
    """A sentence about each column without values, or with NaN or infinite values."""
    sentences = []
    for name, about in profile["columns"].items():
        rows = about["rows"]
        if rows and about["nulls"] == rows:
            sentences.append(f"Column {name!r} has no value in any of the {rows:,} rows.")
        for kind, what in (("nan", "not a number"), ("infinite", "infinite")):
            if count := about.get(kind, 0):
                share = f"{count:,} of {rows:,} rows"
                sentences.append(f"Column {name!r} is {what} in {share}; features treat it as missing.")
    return sentences


def _rounded(value: float, direction: int) -> float:
    """Round to six digits in the given direction, so that a constant column meets its own bounds."""
    short = float(f"{value:.6g}")
    if math.isclose(short, value):
        return value
    if (short - value) * direction < 0:
        short = float(f"{value + direction * 10.0 ** (math.floor(math.log10(abs(value))) - 5):.6g}")
    return short


def _warn(kind: str, name: str, **params: Any) -> Expectation:
    return Expectation(type=kind, params={"column": name, **params}, severity="warning")


def _request(schema: Mapping[str, pl.DataType]) -> StatisticsRequest:
    request = StatisticsRequest(counts={"rows": pl.col(ROW).is_not_null()})
    for name, dtype in schema.items():
        cells = column(name, schema)
        if dtype.is_numeric():  # no value counts: they would take twice the time of everything else
            request.numbers[name], request.distinct[name] = pl.col(name), cells
            continue
        request.values[name] = cells
        if dtype.is_temporal():
            request.ends[name] = cells
        elif dtype == pl.String:
            request.numbers[name] = cells.str.len_chars()
    return request


def _column(name: str, dtype: pl.DataType, statistics: Statistics) -> dict[str, Any]:
    about: dict[str, Any] = {"type": str(dtype), "rows": statistics.counts["rows"]}
    if dtype.is_numeric():
        sketch, distinct = statistics.numbers[name], statistics.distinct[name]
        different = min(distinct.count, sketch.count + sum(sketch.infinities))  # an estimate may exceed the count
        counts = {"distinct": different, "distinct_exact": distinct.exact, "top": _top_numbers(sketch, dtype)}
        return about | {"nulls": sketch.nulls} | counts | _spread(sketch)
    counter = statistics.values[name]
    about |= {"nulls": counter.nulls, "distinct": counter.distinct, "distinct_exact": counter.exact}
    about["top"] = [[_plain(value), count] for value, count in counter.top(TOP_VALUES)]
    if dtype.is_temporal():
        return about | {key: _plain(end) for key, end in zip(("first", "last"), statistics.ends[name], strict=True)}
    if dtype == pl.String:
        lengths = _spread(statistics.numbers[name])
        about["lengths"] = {key: lengths.get(key) for key in ("min", "max", "mean", "std")}
    return about


def _top_numbers(sketch: NumericSketch, dtype: pl.DataType) -> list[list[Any]]:
    """The most frequent numbers, if there are few distinct ones."""
    if sketch.values is None:
        return []
    values, counts = sketch.values
    order = np.argsort(-counts, kind="stable")[:TOP_VALUES]
    return [[int(values[i]) if dtype.is_integer() else float(values[i]), int(counts[i])] for i in order]


def _spread(sketch: NumericSketch) -> dict[str, Any]:
    odd = {"nan": sketch.nan, "infinite": sum(sketch.infinities)}
    if not sketch.count:
        return odd if any(odd.values()) else {}
    edges = np.linspace(sketch.min, sketch.max, _BINS + 1)
    below = sketch.count_below(edges)
    below[-1] = sketch.count
    std = sketch.std
    return {
        **odd,
        "min": sketch.min,
        "max": sketch.max,
        "mean": sketch.mean,
        "std": None if math.isnan(std) else std,
        "percentiles": sketch.quantile(_PERCENTILES).tolist(),
        "histogram": {"edges": edges.tolist(), "counts": np.diff(below).tolist()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MAX_VALUE_LENGTH]
    return value if isinstance(value, int | float | bool | None) else str(value)
