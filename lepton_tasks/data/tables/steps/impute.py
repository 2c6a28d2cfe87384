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
        value: What is filled in, for ``constant``.
        mark: Whether a column ``<name>_missing`` says, as 0 or 1, where there was no value.
    """

    columns: tuple[str, ...]
    strategy: Literal["mean", "median", "mode", "constant"] = "median"
    value: Value | None = None
    mark: bool = False

    def __post_init__(self) -> None:
        if (self.strategy == "constant") != (self.value is not None):
            raise ConfigError("`value` belongs to the strategy `constant`, and to no other.", where="value")

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing, or that has no mean."""
        if self.strategy in ("mean", "median"):
            check_columns(self.columns, schema, suits=lambda dtype: dtype.is_numeric(), wanted="numbers")
        else:
            check_columns(self.columns, schema)

    def summary_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns, as what their values are told by."""
        if self.strategy == "constant":
            return (), ()
        return ((), self.columns) if self.strategy == "mode" else (self.columns, ())

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The value of each column.

        Raises:
            DataError: a column has no value at all in the training split.
        """
        if self.strategy == "constant":
            return dict.fromkeys(self.columns, self.value)
        if self.strategy == "mode":
            counters = summarise(rows, ctx, categories=self.columns).counters
            return {name: _known(name, [value for value, _ in counter.top(1)]) for name, counter in counters.items()}
        moments = self.columns if self.strategy == "mean" else ()
        sketches = summarise(rows, ctx, numbers=self.columns, moments=moments).sketches
        return {
            name: _known(name, [sketch.mean if self.strategy == "mean" else float(sketch.quantile(0.5))] * sketch.count)
            for name, sketch in sketches.items()
        }

    def operations(self, fitted: Mapping[str, Any]) -> Sequence[Operation]:
        """What is done to a row, here and in serving."""
        marks = [Operation("missing", name, into=f"{name}_missing") for name in self.columns if self.mark]
        return [*marks, *(Operation("fill", name, value=fitted[name]) for name in self.columns)]

    def refuse(self, fitted: Mapping[str, Any]) -> pl.Expr | None:
        """Nothing."""
        return None


def _known(name: str, values: Sequence[Any]) -> Any:
    if not values:
        raise DataError(
            f"the column {name!r} has no value in the training split.",
            where="clean: impute",
            fix="Take the column out of the features and out of this step, or fill it with a `constant`.",
        )
    return values[0]
