"""Row-level Great Expectations rules as Polars expressions with pandas semantics."""

from __future__ import annotations

import datetime as dt
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.registry import did_you_mean

Schema = Mapping[str, pl.DataType]
Values = Mapping[str, Any]


def column(name: str, schema: Schema) -> pl.Expr:
    """The values of a column, with NaN as null; raises `DataError` for a missing column."""
    if name not in schema:
        raise DataError(f"no column named {name!r}.", fix=did_you_mean(name, schema))
    return pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name)


def row_condition(condition: Any, schema: Schema) -> pl.Expr | None:
    """The rows that a rule applies to; None for all.

    Raises:
        ConfigError: the condition is in pandas syntax.
        DataError: it names a missing column.
    """
    return None if condition is None else _condition(condition, schema)


def _condition(condition: Any, schema: Schema) -> pl.Expr:
    if not isinstance(condition, Mapping | str):
        condition = condition.dict()
    kind = condition["type"] if isinstance(condition, Mapping) else None
    if kind in ("and", "or"):
        parts = [_condition(part, schema) for part in condition["conditions"]]
        return functools.reduce(operator.and_ if kind == "and" else operator.or_, parts)
    if kind == "nullity":
        values = column(condition["column"]["name"], schema)
        return values.is_null() if condition["is_null"] else values.is_not_null()
    if kind == "comparison":
        return _compared(condition["column"]["name"], str(condition["operator"]), condition["parameter"], schema)
    raise ConfigError(
        f"row_condition {condition!r} is written for pandas.",
        fix="Use the syntax of Great Expectations, e.g. row_condition: 'col(\"age\") > 17' with condition_parser: "
        "great_expectations.",
    )


def _compared(name: str, sign: str, parameter: Any, schema: Schema) -> pl.Expr:
    values, dtype = column(name, schema), schema[name]
    if sign in ("IN", "NOT_IN"):
        found = values.is_in(literals(parameter, dtype).implode()).fill_null(False)
        return found if sign == "IN" else ~found
    if sign == "!=":  # as in pandas, a missing value differs from every value
        return values.ne_missing(literal(parameter, dtype))
    compare: Callable[[pl.Expr, Any], pl.Expr] = _SIGNS[sign]
    return compare(values, literal(parameter, dtype)).fill_null(False)


_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def literal(value: Any, dtype: pl.DataType) -> Any:
    """A value for comparison with a column: text is parsed as a time for time columns."""
    if isinstance(value, str) and dtype.is_temporal():
        return pl.lit(dt.datetime.fromisoformat(value)).cast(dtype)
    return value


def literals(values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """The values that can be represented in the column's type, in that type."""
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.Series([value for value in values if isinstance(value, str)], dtype=pl.String)
    if dtype.is_temporal():
        parsed = [dt.datetime.fromisoformat(value) if isinstance(value, str) else value for value in values]
        return pl.Series(parsed).cast(dtype) if parsed else pl.Series([], dtype=dtype)
    if dtype.is_numeric():
        numbers = [value for value in values if isinstance(value, int | float) and not math.isnan(value)]
        if dtype.is_integer():
            numbers = [int(value) for value in numbers if value == int(value)]
            return pl.Series(numbers, dtype=pl.Int64).cast(dtype, strict=False).drop_nulls()
        return pl.Series([float(value) for value in numbers], dtype=pl.Float64).cast(dtype)
    kind = bool if dtype == pl.Boolean else str
    return pl.Series([value for value in values if isinstance(value, kind)], dtype=dtype)


def between(values: pl.Expr, rule: Values, dtype: pl.DataType) -> pl.Expr:
    """Whether values are between ``min_value`` and ``max_value``, inclusive unless ``strict_min|max``."""
    low, high = (literal(rule.get(key), dtype) for key in ("min_value", "max_value"))
    if low is None and high is None:
        raise ConfigError("min_value and max_value are both missing.")
    above = pl.lit(True) if low is None else values > low if rule.get("strict_min") else values >= low
    below = pl.lit(True) if high is None else values < high if rule.get("strict_max") else values <= high
    return above & below


def matches(values: pl.Expr, pattern: str) -> pl.Expr:
    """Whether the pattern matches within the values as text.

    Patterns with look-around or backreferences, which Polars lacks, are evaluated by Python, value by value.
    """
    text = values.cast(pl.String)
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        return text.map_batches(functools.partial(_python_matches, re.compile(pattern)), return_dtype=pl.Boolean)
    return text.str.contains(pattern)


def _python_matches(pattern: re.Pattern[str], values: pl.Series) -> pl.Series:
    found = [None if value is None else pattern.search(value) is not None for value in values]
    return pl.Series(found, dtype=pl.Boolean)


def _in_order(values: pl.Expr, rule: Values, compare: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> pl.Expr:
    before = values.forward_fill().shift(1)
    equal = pl.lit(False) if rule.get("strictly") else values == before
    return compare(values, before) | equal | before.is_null()


def _regexes(values: pl.Expr, rule: Values) -> list[pl.Expr]:
    return [matches(values, pattern) for pattern in rule["regex_list"]]


def _match_list(values: pl.Expr, rule: Values, dtype: pl.DataType) -> pl.Expr:
    combine = pl.all_horizontal if rule.get("match_on") == "all" else pl.any_horizontal
    return combine(*_regexes(values, rule))


def _lengths(values: pl.Expr) -> pl.Expr:
    return values.cast(pl.String).str.len_chars()


ColumnRule = Callable[[pl.Expr, Values, pl.DataType], pl.Expr]

COLUMN_RULES: dict[str, ColumnRule] = {
    "column_values.nonnull": lambda c, r, t: c.is_not_null(),
    "column_values.null": lambda c, r, t: c.is_null(),
    "column_values.between": between,
    "column_values.in_set": lambda c, r, t: c.is_in(literals(r["value_set"], t).implode()),
    "column_values.not_in_set": lambda c, r, t: ~c.is_in(literals(r["value_set"], t).implode()),
    "column_values.match_regex": lambda c, r, t: matches(c, r["regex"]),
    "column_values.not_match_regex": lambda c, r, t: ~matches(c, r["regex"]),
    "column_values.match_regex_list": _match_list,
    "column_values.not_match_regex_list": lambda c, r, t: ~pl.any_horizontal(*_regexes(c, r)),
    "column_values.value_length.between": lambda c, r, t: between(_lengths(c), r, pl.UInt32()),
    "column_values.value_length.equals": lambda c, r, t: _lengths(c) == r["value"],
    "column_values.increasing": lambda c, r, t: _in_order(c, r, operator.gt),
    "column_values.decreasing": lambda c, r, t: _in_order(c, r, operator.lt),
}
"""Rules on the values of one column: whether a value is as expected."""

ROWS_WITH_NULLS = ("column_values.nonnull", "column_values.null")
"""The only single-column rules that apply to missing values."""

PairRule = Callable[[pl.Expr, pl.Expr, Values], pl.Expr]

PAIR_RULES: dict[str, PairRule] = {
    "column_pair_values.equal": lambda a, b, r: a == b,
    "column_pair_values.a_greater_than_b": lambda a, b, r: a >= b if r.get("or_equal") else a > b,
}
"""Rules on two columns of a row."""

RowRule = Callable[[Sequence[pl.Expr], Values], pl.Expr]


def _all_equal(columns: Sequence[pl.Expr], rule: Values) -> pl.Expr:
    return pl.all_horizontal(*(columns[0].eq_missing(other) for other in columns))


def _all_different(columns: Sequence[pl.Expr], rule: Values) -> pl.Expr:
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    return pl.all_horizontal(*(a.ne_missing(b) for a, b in pairs))


MULTICOLUMN_RULES: dict[str, RowRule] = {
    "multicolumn_sum.equal": lambda c, r: pl.sum_horizontal(*c, ignore_nulls=False) == r["sum_total"],
    "multicolumn_values.equal": _all_equal,
    "select_column_values.unique.within_record": _all_different,
}
"""Rules on several columns of a row."""

IGNORED_ROWS: dict[str, Callable[[Sequence[pl.Expr]], pl.Expr]] = {
    "both_values_are_missing": lambda c: pl.any_horizontal(*(e.is_not_null() for e in c)),
    "either_value_is_missing": lambda c: pl.all_horizontal(*(e.is_not_null() for e in c)),
    "neither": lambda c: pl.lit(True),
    "all_values_are_missing": lambda c: pl.any_horizontal(*(e.is_not_null() for e in c)),
    "any_value_is_missing": lambda c: pl.all_horizontal(*(e.is_not_null() for e in c)),
    "never": lambda c: pl.lit(True),
}
"""Which rows a multi-column rule applies to, by ``ignore_row_if``."""
