"""Impute missing values from the training split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.statistics import summarise
from lepton_tasks.data.tables.steps.column_checks import check_columns

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Impute:
    """Fill missing values, including NaN. For time series use `fill_gaps`.

    Args:
        columns: The columns to fill.
        strategy: ``mean``, ``median``, ``mode`` (the most frequent value) of the training split, or ``constant``.
        value: The fill value for ``constant``.
        mark: Whether to add an indicator column ``<name>_missing`` of 0 and 1.
    """

    columns: tuple[str, ...]
    strategy: Literal["mean", "median", "mode", "constant"] = "median"
    value: Value | None = None
    mark: bool = False

    def __post_init__(self) -> None:
        if (self.strategy == "constant") != (self.value is not None):
            raise ConfigError("`value` belongs to the strategy `constant`, and to no other.", where="value")

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column, or one without a mean."""
        if self.strategy in ("mean", "median"):
            check_columns(self.columns, schema, suits=lambda dtype: dtype.is_numeric(), wanted="numbers")
        else:
            check_columns(self.columns, schema)

    def summary_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns, as numeric or categorical."""
        if self.strategy == "constant":
            return (), ()
        return ((), self.columns) if self.strategy == "mode" else (self.columns, ())

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The fill value of each column.

        Raises:
            DataError: a column has no value at all in the training split.
        """
        if self.strategy == "constant":
            return dict.fromkeys(self.columns, self.value)
        if self.strategy == "mode":
            counters = summarise(rows, ctx, categories=self.columns).counters
            return {
                name: _first_value(name, [value for value, _ in counter.top(1)]) for name, counter in counters.items()
            }
        moments = self.columns if self.strategy == "mean" else ()
        sketches = summarise(rows, ctx, numbers=self.columns, moments=moments).sketches
        return {
            name: _first_value(
                name, [sketch.mean if self.strategy == "mean" else float(sketch.quantile(0.5))] * sketch.count
            )
            for name, sketch in sketches.items()
        }

    def operations(self, fitted: Mapping[str, Any]) -> Sequence[Operation]:
        """The indicators, then the fills."""
        marks = [Operation("missing", name, into=f"{name}_missing") for name in self.columns if self.mark]
        return [*marks, *(Operation("fill", name, value=fitted[name]) for name in self.columns)]

    def refuse(self, fitted: Mapping[str, Any]) -> pl.Expr | None:
        """Rejects nothing."""
        return None


def _first_value(name: str, values: Sequence[Any]) -> Any:
    if not values:
        raise DataError(
            f"the column {name!r} has no value in the training split.",
            where="clean: impute",
            fix="Remove the column from the features and from this step, or fill it with a `constant`.",
        )
    return values[0]
