"""Rows with missing values: refused, or filled with what the training split tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.data.tables.steps.columns import check_columns


@dataclasses.dataclass(frozen=True)
class Missing:
    """Refuse rows that have no value in one of the columns; NaN counts as none.

    Args:
        columns: Where a value must be.
    """

    columns: tuple[str, ...]

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing."""
        check_columns(self.columns, schema)

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """Nothing."""
        return ()

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The rows as they are."""
        return frame

    def refuse(self) -> pl.Expr:
        """The first column without a value."""
        return pl.coalesce(pl.when(pl.col(c).is_null()).then(pl.lit(f"{c}: no value")) for c in self.columns)
