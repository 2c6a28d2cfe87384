"""Outlier handling, with bounds from the training split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import polars as pl
import pydantic

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.statistics import summarise
from lepton_tasks.data.tables.steps.column_checks import check_columns

_DEFAULT_FACTOR = {"iqr": 1.5, "z_score": 3.0, "mad": 3.5, "quantile": 0.0}
_MAD_TO_STD = 1.4826  # of a normal distribution


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Handle outliers: reject training rows, clip values or flag them. Missing values pass.

    Args:
        columns: Numeric columns.
        method: How bounds are computed. ``iqr``: the quartiles extended by `factor` (1.5) interquartile ranges;
            ``z_score``: the mean ± `factor` (3) standard deviations; ``mad``: the median ± `factor` (3.5) times 1.4826
            median absolute deviations; ``quantile``: the quantiles `tail` and 1 - `tail`.
        action: ``drop`` rows of the training split (other splits are unchanged), ``clip`` values to the bounds in
            every split, or ``mark`` them in an indicator column ``<name>_outlier`` of 0 and 1.
        factor: Multiplier; see `method`.
        tail: Fraction of values outside on each side, for ``quantile``.

    Source: Tukey (1977), Exploratory Data Analysis, for ``iqr``; Iglewicz and Hoaglin (1993) for ``mad``.
    """

    columns: tuple[str, ...]
    method: Literal["iqr", "z_score", "mad", "quantile"] = "iqr"
    action: Literal["drop", "clip", "mark"] = "clip"
    factor: Annotated[float, pydantic.Field(gt=0)] | None = None
    tail: Annotated[float, pydantic.Field(gt=0, lt=0.5)] = 0.01

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing or non-numeric column."""
        check_columns(self.columns, schema, suits=lambda dtype: dtype.is_numeric(), wanted="numbers")

    def summary_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns, as numeric."""
        return self.columns, ()

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The bounds of each column; null for a column without values."""
        moments = self.columns if self.method == "z_score" else ()
        sketches = summarise(rows, ctx, numbers=self.columns, moments=moments).sketches
        return {name: self._bounds(sketch) if sketch.count else None for name, sketch in sketches.items()}

    def _bounds(self, sketch: NumericSketch) -> list[float]:
        factor = self.factor or _DEFAULT_FACTOR[self.method]
        if self.method == "quantile":
            return [float(q) for q in sketch.quantile([self.tail, 1 - self.tail])]
        if self.method == "iqr":
            low, high = sketch.quantile([0.25, 0.75])
            reach = factor * (high - low)
            return [float(low - reach), float(high + reach)]
        if self.method == "z_score":
            reach = factor * (sketch.std if sketch.count > 1 else 0.0)
            return [sketch.mean - reach, sketch.mean + reach]
        middle = float(sketch.quantile(0.5))
        reach = factor * _MAD_TO_STD * _median_distance(sketch, middle)
        return [middle - reach, middle + reach]

    def operations(self, fitted: Mapping[str, Any]) -> Sequence[Operation]:
        """Clips or indicators; none if rows are dropped."""
        bounds = {name: limits for name, limits in fitted.items() if limits is not None}
        if self.action == "clip":
            return [Operation("clip", name, low=low, high=high) for name, (low, high) in bounds.items()]
        if self.action == "mark":
            return [
                Operation("outside", name, into=f"{name}_outlier", low=low, high=high)
                for name, (low, high) in bounds.items()
            ]
        return []

    def refuse(self, fitted: Mapping[str, Any]) -> pl.Expr | None:
        """The first column out of its bounds."""
        bounds = {name: limits for name, limits in fitted.items() if limits is not None}
        if self.action != "drop" or not bounds:
            return None
        return pl.coalesce(
            pl.when(~pl.col(name).is_between(low, high) & pl.col(name).cast(pl.Float64).is_not_nan()).then(
                pl.lit(f"{name}: outlier")
            )
            for name, (low, high) in bounds.items()
        )


def _median_distance(sketch: NumericSketch, middle: float) -> float:
    """The median absolute deviation from `middle`."""
    low, high = 0.0, max(sketch.max - middle, middle - sketch.min)
    for _ in range(60):  # bisection to float64 precision
        half = (low + high) / 2
        below = sketch.count_below([middle - half, middle + half])
        low, high = (half, high) if below[1] - below[0] < sketch.count / 2 else (low, half)
    return high
