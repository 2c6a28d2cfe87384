"""Features `table`: scaled numbers, category codes, cyclic time features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.tabular import FIRST_CODE
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.requests import json_request, select_rows
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.categories import (
    code_expression,
    cross_expression,
    fit_rates,
    rate_expressions,
    vocabulary,
    warn_of_identifier,
)
from lepton_tasks.data.tables.kernels import Cyclic, Kernel, Scaling, expressions
from lepton_tasks.data.tables.number_transforms import (
    NumberTransform,
    bin_edges,
    bin_expression,
    fit_number,
    number_expression,
)
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.statistics import summarise
from lepton_tasks.data.tables.steps.column_checks import check_columns

CategoryTransform = Literal["one_hot", "ordinal", "hashing", "target"]
Transform = NumberTransform | CategoryTransform | Literal["bins", "cyclical"]

PERIODS = {"day": 86_400, "week": 604_800, "year": 31_556_952}
"""Seconds; a year of 365.2425 days."""

_NUMBERS = (*get_args(NumberTransform), "bins")


class Column(pydantic.BaseModel):
    """Transform of one column.

    Attributes:
        transform: See `TableColumns`.
        min_count: Minimum count of a category with its own code.
        max_values: Maximum number of categories with their own code.
        buckets: Number of codes of ``hashing``.
        bins: Maximum number of codes of ``bins``.
        folds: Number of folds of ``target``.
        smoothing: Weight of the overall mean in ``target``, in rows.
        periods: Periods of ``cyclical``.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    transform: Transform
    min_count: Annotated[int, pydantic.Field(ge=1)] = 1
    max_values: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = 10_000
    buckets: Annotated[int, pydantic.Field(ge=2, le=2**24)] = 1_024
    bins: Annotated[int, pydantic.Field(ge=2, le=1_024)] = 128
    folds: Annotated[int, pydantic.Field(ge=2, le=50)] = 5
    smoothing: Annotated[float, pydantic.Field(gt=0)] = 20.0
    periods: tuple[Literal["day", "week", "year"], ...] = ("day", "week", "year")


class Cross(pydantic.BaseModel):
    """Cross of two categorical columns, with at most `buckets` codes (shared beyond)."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, str]
    buckets: Annotated[int, pydantic.Field(ge=2, le=2**24)] = 65_536


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """Table columns as float32 numbers and int32 category codes.

    Numbers: ``standard`` (default), ``min_max``, ``robust``, ``quantile``, ``log``, ``power``, ``keep``; or ``bins``
    (bin codes), if the target depends on particular amounts rather than on magnitude. Categories: ``one_hot`` (default
    of text) and ``ordinal``, both stored as one code per row, which the network expands or embeds; ``hashing``;
    ``target``. Times: ``cyclical`` (default), a sine and a cosine per period. Missing numbers become the median,
    missing categories have their own code.

    Args:
        columns: A transform, or a transform with options, for columns that do not use the default.
        ignore: Columns to leave out.
        crosses: Pairs of categorical columns.
    """

    columns: Mapping[str, Column | Transform] = dataclasses.field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    crosses: tuple[Cross, ...] = ()

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """None: expectations of a table depend on the use case."""
        return ()

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` for a missing column, or a transform that does not suit the column's type."""
        check_columns([*self.columns, *self.ignore], schema, where="features.params")
        if label is not None:
            check_columns([label], schema, where="data.label")
            if label in self.columns:
                raise ConfigError(f"{label!r} is the column to be learned.", where="features.params.columns")
        plan = self._plan(schema, label)
        if not plan:
            raise ConfigError("no column is left to learn from.", where="features.params.ignore")
        for name, column in plan.items():
            dtype = schema[name]
            suits = (
                dtype.is_numeric() or dtype == pl.Boolean
                if column.transform in _NUMBERS
                else dtype.is_temporal()
                if column.transform == "cyclical"
                else not dtype.is_float() and not dtype.is_temporal() and not dtype.is_nested()
            )
            if not suits:
                raise ConfigError(
                    f"{name!r} holds {dtype}, which {column.transform!r} does not accept.",
                    where=f"features.params.columns.{name}",
                    fix="Choose another transform, convert the column with the step `types`, or `ignore` it.",
                )
            if column.transform == "target" and label is None:
                raise ConfigError("`target` needs `data.label`.", where=f"features.params.columns.{name}")
        for cross in self.crosses:
            for name in cross.columns:
                if name not in plan or plan[name].transform not in ("one_hot", "ordinal", "hashing"):
                    raise ConfigError(f"{name!r} has no codes to cross.", where="features.params.crosses")

    def _plan(self, schema: Mapping[str, pl.DataType], label: str | None) -> dict[str, Column]:
        """The transform of each column, in table order."""
        plan = {}
        for name, dtype in schema.items():
            if name in self.ignore or name == label:
                continue
            chosen = self.columns.get(name, _default(dtype))
            plan[name] = chosen if isinstance(chosen, Column) else Column(transform=chosen)
        return plan

    def summary_columns(
        self, schema: Mapping[str, pl.DataType], label: str | None
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Numeric columns, and columns with category codes."""
        plan = self._plan(schema, label)
        numbers = [name for name, column in plan.items() if column.transform in _NUMBERS]
        return numbers, [name for name, column in plan.items() if column.transform in ("one_hot", "ordinal")]

    def fit_rows(
        self, rows: TableRows, ctx: RunContext, *, label: str | None, operations: Sequence[Operation]
    ) -> dict[str, Any]:
        """Request columns, operations on them, and features with their fitted values.

        For a numeric label also its mean and standard deviation, as ``target``.
        """
        schema = rows.schema
        plan = self._plan(schema, label)
        numbers, words = self.summary_columns(schema, label)
        targets = {name: column for name, column in plan.items() if column.transform == "target"}
        learned = [label] if label is not None and schema[label].is_float() else []
        moments = [name for name in numbers if plan[name].transform == "standard"]
        found = summarise(rows, ctx, numbers=[*numbers, *learned], categories=words, moments=[*moments, *learned])
        sketches, counters = found.sketches, found.counters
        target = _target(sketches.pop(learned[0])) if learned else {}
        rates = fit_rates(rows, targets, str(label), seed=ctx.seed, ctx=ctx) if targets else {}
        features: list[dict[str, Any]] = []
        for name, column in plan.items():
            base = {"name": name, "column": name}
            if column.transform == "bins":
                edges = bin_edges(sketches[name], column.bins)
                features.append(base | {"kind": "bin", "edges": edges, "size": len(edges) + 1 + FIRST_CODE})
            elif name in sketches:
                features.append(base | {"kind": "number"} | fit_number(column.transform, sketches[name]))  # type: ignore[arg-type]
            elif name in counters:
                warn_of_identifier(name, counters[name], ctx)
                values = vocabulary(counters[name], min_count=column.min_count, max_values=column.max_values)
                codes = {"values": values, "size": len(values) + FIRST_CODE, "encoding": column.transform}
                features.append(base | {"kind": "category"} | codes)
            elif name in rates:
                features.append(base | {"kind": "target"} | rates[name])
            elif column.transform == "hashing":
                features.append(base | {"kind": "hash", "buckets": column.buckets, "size": column.buckets + FIRST_CODE})
            else:
                cycles = [(f"{name}_{period}", PERIODS[period]) for period in column.periods]
                features += [{"name": n, "column": name, "kind": "cycle", "period": seconds} for n, seconds in cycles]
        features += [self._crossed(cross, features) for cross in self.crosses]
        missing = {name for name, sketch in sketches.items() if sketch.nulls + sketch.nan}
        missing |= {name for name, counter in counters.items() if counter.nulls}
        return {
            "operations": [operation.to_dict() for operation in operations],
            "request": _request(schema, features, operations, missing),
            "ignored": [*self.ignore, *([label] if label else [])],
            "features": features,
            **target,
        }

    def _crossed(self, cross: Cross, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        first, second = (next(f for f in features if f["name"] == name) for name in cross.columns)
        size = min(first["size"] * second["size"], cross.buckets)
        return {"name": "_x_".join(cross.columns), "kind": "cross", "of": [first["name"], second["name"]], "size": size}

    def feature_expressions(self, fitted: Mapping[str, Any]) -> Sequence[pl.Expr]:
        """The features: float32 numbers, int32 codes."""
        types = {column["name"]: column["type"] for column in fitted["request"]}
        by_name = {feature["name"]: feature for feature in fitted["features"]}
        made: list[pl.Expr] = []
        for name, feature in by_name.items():
            kind = feature["kind"]
            if (kernel := _kernel(feature)) is not None:
                made += expressions(kernel)
            elif kind == "number":
                dtype = pl.Int64() if types.get(feature["column"]) in ("int", "bool") else pl.Float64()
                made.append(number_expression(feature["column"], dtype, feature).alias(name))
            elif kind == "bin":
                made.append(bin_expression(feature["column"], feature["edges"]).alias(name))
            elif kind == "target":
                made += rate_expressions(feature)
            elif kind == "cross":
                made.append(cross_expression(feature, [by_name[part] for part in feature["of"]]).alias(name))
            else:
                made.append(code_expression(feature).alias(name))
        return made

    def kernels(self, fitted: Mapping[str, Any]) -> Sequence[Kernel]:
        """Kernels of numbers with linear scaling, and of times."""
        return [kernel for kernel in map(_kernel, fitted["features"]) if kernel is not None]

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`TabularCodec` of the request's columns."""
        return "tabular", {"columns": fitted["request"], "ignored": fitted["ignored"]}

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The request columns of each row."""
        names = [column["name"] for column in fitted["request"]]
        return [json_request(row, names) for row in select_rows(rows.select(names), numbers).iter_rows(named=True)]


def _kernel(feature: Mapping[str, Any]) -> Kernel | None:
    if feature["kind"] == "cycle":
        return Cyclic(feature["column"], feature["name"], feature["period"])
    if feature["kind"] == "number" and feature["curve"] == "identity":
        return Scaling(feature["column"], feature["name"], feature["shift"], feature["scale"], feature["fill"])
    return None


def _target(label: NumericSketch) -> dict[str, Any]:
    spread = float(label.std) if label.count > 1 else 0.0
    return {"target": {"mean": float(label.mean), "std": spread or 1.0}}


def _default(dtype: pl.DataType) -> Transform:
    if dtype.is_temporal():
        return "cyclical"
    if dtype == pl.Boolean:
        return "keep"
    return "standard" if dtype.is_numeric() else "one_hot"


def _type_of(dtype: pl.DataType) -> str:
    """Name of the type in `TabularColumn`."""
    if dtype.is_temporal():
        return "time"
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "int"
    return "float" if dtype.is_numeric() else "text"


def _request(
    schema: Mapping[str, pl.DataType],
    features: Sequence[Mapping[str, Any]],
    operations: Sequence[Operation],
    missing: set[str],
) -> list[dict[str, Any]]:
    """The table columns that features need, as params of `TabularColumn`."""
    made = {operation.into for operation in operations}
    by_column = {feature["column"]: feature for feature in features if "column" in feature}
    marked = {operation.column for operation in operations if operation.into in by_column}
    filled = {operation.column for operation in operations if operation.kind == "fill"}
    columns = []
    for name, dtype in schema.items():
        if name in made or not (name in by_column or name in marked):
            continue
        feature = by_column.get(name, {})
        known = feature.get("kind") in ("number", "bin", "category") and name not in filled | missing
        coding = {key: feature[key] for key in ("values", "buckets") if key in feature}
        columns.append({"name": name, "type": _type_of(dtype), "required": known, **coding})
    return columns
