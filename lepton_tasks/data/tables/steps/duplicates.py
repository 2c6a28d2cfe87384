"""Rows that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.data.tables.steps.columns import check_columns


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Keep the first of the rows with equal values; rows that have none of the values are all kept.

    Args:
        columns: What must be equal; without them, every column.
    """

    columns: tuple[str, ...] = ()

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing."""
        check_columns(self.columns, schema)

    def keys(self, schema: Mapping[str, pl.DataType]) -> Sequence[pl.Expr]:
        """The columns."""
        return [pl.col(name) for name in self.columns or schema]
