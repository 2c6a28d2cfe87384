"""Cleaning step for duplicate rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.column_checks import check_columns


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Keep the first of rows with equal values; rows in which all values are missing are kept.

    Args:
        columns: Columns to compare; default all.
        label: Label column. If labels differ among otherwise equal rows, all of these rows are rejected, since it is
            unknown which label is wrong.
    """

    columns: tuple[str, ...] = ()
    label: str | None = None

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column, or a label among `columns`."""
        check_columns(self.columns, schema)
        if self.label is not None:
            check_columns([self.label], schema, where="label")
        if self.label in self.columns:
            raise ConfigError(f"rows of equal {self.label!r} cannot differ in it.", where="label")

    def keys(self, schema: Mapping[str, pl.DataType]) -> Sequence[pl.Expr]:
        """The columns to compare."""
        return [pl.col(name) for name in self.columns or schema if name != self.label]
