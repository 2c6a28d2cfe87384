"""Cleaning step for rows with missing values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.data.tables.steps.column_checks import check_columns


@dataclasses.dataclass(frozen=True)
class Missing:
    """Reject rows with a missing value (or NaN) in any of the columns.

    Args:
        columns: Columns that must have a value.
    """

    columns: tuple[str, ...]

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing."""
        check_columns(self.columns, schema)

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """Rewrites nothing."""
        return ()

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Add private columns that flag missing values."""
        schema = frame.collect_schema()
        return frame.with_columns(_absent(name, schema[name]).alias(f"__absent_{name}") for name in self.columns)

    def refuse(self) -> pl.Expr:
        """The first column without a value."""
        return pl.coalesce(pl.when(pl.col(f"__absent_{c}")).then(pl.lit(f"{c}: no value")) for c in self.columns)


def _absent(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    return column.is_null() | column.is_nan().fill_null(value=False) if dtype.is_float() else column.is_null()
