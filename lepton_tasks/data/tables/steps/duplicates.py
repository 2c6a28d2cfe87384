"""Cleaning step for duplicate rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.column_checks import check_columns


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Keep the first of rows with equal values; rows without any of the values are all kept.

    Args:
        columns: What must be equal; without them, every column.
        label: A column of labels. Where they differ among rows that are otherwise equal, all of these rows are refused:
            one label must be wrong, and nobody knows which.
    """

    columns: tuple[str, ...] = ()
    label: str | None = None

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing, or a label that must be equal itself."""
        check_columns(self.columns, schema)
        if self.label is not None:
            check_columns([self.label], schema, where="label")
        if self.label in self.columns:
            raise ConfigError(f"rows of equal {self.label!r} cannot differ in it.", where="label")

    def keys(self, schema: Mapping[str, pl.DataType]) -> Sequence[pl.Expr]:
        """The columns."""
        return [pl.col(name) for name in self.columns or schema if name != self.label]
