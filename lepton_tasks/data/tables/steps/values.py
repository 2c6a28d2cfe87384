"""Cleaning steps for allowed values and ranges."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.column_checks import check_columns

Limit = float | dt.datetime | dt.date


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Reject rows with a value out of range, clip the value, or clear it. Missing values pass; NaN does not.

    Args:
        columns: Smallest and largest value of each column; null for no limit.
        otherwise: ``refuse`` the row, ``clip`` the value, or set it to ``null``.
    """

    columns: Mapping[str, tuple[Limit | None, Limit | None]]
    otherwise: Literal["refuse", "clip", "null"] = "refuse"

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing or unordered column, or an empty range."""
        check_columns(
            list(self.columns), schema, suits=lambda d: d.is_numeric() or d.is_temporal(), wanted="numbers or times"
        )
        for name, (low, high) in self.columns.items():
            if low is not None and high is not None and low > high:  # type: ignore[operator]  # both have the same type
                raise ConfigError(f"no value lies between {low} and {high}.", where=f"columns.{name}")

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """All columns, unless rows are rejected."""
        return () if self.otherwise == "refuse" else tuple(self.columns)

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Clip values or set them to null."""
        if self.otherwise == "refuse":
            return frame
        if self.otherwise == "clip":
            clipped = [pl.col(name).clip(low, high) for name, (low, high) in self.columns.items()]
            return frame.with_columns(clipped)
        return frame.with_columns(
            pl.when(~_outside(n, limits)).then(pl.col(n)).alias(n) for n, limits in self.columns.items()
        )

    def refuse(self) -> pl.Expr | None:
        """The first column out of range, with the range."""
        if self.otherwise != "refuse":
            return None
        return pl.coalesce(
            pl.when(_outside(name, limits)).then(pl.lit(f"{name}: {_words(limits)}"))
            for name, limits in self.columns.items()
        )


def _outside(name: str, limits: tuple[Limit | None, Limit | None]) -> pl.Expr:
    low, high = limits
    column = pl.col(name)
    tests = [column < low] if low is not None else []
    tests += [column > high] if high is not None else []  # NaN is above every number in Polars
    return pl.any_horizontal(pl.lit(value=False), *tests)


def _words(limits: tuple[Limit | None, Limit | None]) -> str:
    low, high = limits
    if low is None:
        return f"above {high}"
    return f"below {low}" if high is None else f"not between {low} and {high}"


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Reject rows with a value outside a list, or clear the value. Missing values pass.

    Args:
        columns: Allowed values of each column.
        otherwise: ``refuse`` the row, or set the value to ``null``.
    """

    columns: Mapping[str, tuple[str | int | float | bool, ...]]
    otherwise: Literal["refuse", "null"] = "refuse"

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column, or values that do not match the column's type."""
        check_columns(list(self.columns), schema)
        for name, values in self.columns.items():
            try:
                pl.Series(list(values), dtype=schema[name], strict=True)
            except (TypeError, pl.exceptions.PolarsError) as error:
                raise ConfigError(
                    f"the column holds {schema[name]}, not all of {', '.join(map(repr, values))}.",
                    where=f"columns.{name}",
                    fix="Write them in the column's type, or convert it first with the step `types`.",
                ) from error

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """All columns, unless rows are rejected."""
        return () if self.otherwise == "refuse" else tuple(self.columns)

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Set values that are not allowed to null."""
        if self.otherwise == "refuse":
            return frame
        return frame.with_columns(
            pl.when(pl.col(name).is_in(list(values))).then(pl.col(name)).alias(name)
            for name, values in self.columns.items()
        )

    def refuse(self) -> pl.Expr | None:
        """The first column whose value is not allowed."""
        if self.otherwise != "refuse":
            return None
        return pl.coalesce(
            pl.when(~pl.col(name).is_in(list(values))).then(pl.lit(f"{name}: not an allowed value"))
            for name, values in self.columns.items()
        )
