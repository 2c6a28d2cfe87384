"""Partitioned rows to validate, from any storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import polars as pl
import pyarrow as pa

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.table_protocols import TableSource
from lepton_tasks.data.tables.rows import ROW

R = TypeVar("R")


class Rows(Protocol):
    """A partitioned table with row numbers in the column `ROW`, such as `TableRows`."""

    @property
    def height(self) -> int:
        """Number of rows."""

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and types."""

    def select(self, columns: Sequence[str]) -> Rows:
        """The same rows with only these columns."""

    def map(self, function: Callable[[pl.DataFrame], R], ctx: RunContext) -> Iterator[R]:
        """The function's result for each part, in order."""


@dataclasses.dataclass(frozen=True)
class FrameRows:
    """An in-memory table as one part; adds the column `ROW` if it is missing."""

    frame: pl.DataFrame

    @classmethod
    def of(cls, table: pa.Table) -> FrameRows:
        """The rows of an Arrow table."""
        frame = pl.from_arrow(table)
        return cls(frame if isinstance(frame, pl.DataFrame) else frame.to_frame())

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.frame.height

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and types."""
        return {name: dtype for name, dtype in self.frame.schema.items() if name != ROW}

    def select(self, columns: Sequence[str]) -> FrameRows:
        """The same rows with only these columns."""
        return FrameRows(self.frame.select(*columns, *([ROW] if ROW in self.frame.columns else [])))

    def numbered(self) -> FrameRows:
        """The same rows with a column `ROW`, so that numbers are kept when rows are filtered."""
        return FrameRows(self.frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW)))

    def where(self, column: str, *values: str) -> FrameRows:
        """The rows with one of the values."""
        return FrameRows(self.frame.filter(pl.col(column).is_in(values)))

    def map(self, function: Callable[[pl.DataFrame], R], ctx: RunContext) -> Iterator[R]:
        """The function's result for the frame."""
        yield function(self.frame if ROW in self.frame.columns else self.numbered().frame)


@dataclasses.dataclass(frozen=True)
class SourceRows:
    """The rows of a source that was not ingested; every operation reads it again, batch by batch."""

    source: TableSource
    columns: tuple[str, ...] | None = None

    @property
    def height(self) -> int:
        """Number of rows; reads them all."""
        return sum(len(rows) for piece in self.source.pieces() for rows, _ in piece.read())

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and types."""
        schema = self.source.schema()
        return schema if self.columns is None else {name: schema[name] for name in self.columns}

    def select(self, columns: Sequence[str]) -> SourceRows:
        """The same rows with only these columns."""
        return dataclasses.replace(self, columns=tuple(columns))

    def map(self, function: Callable[[pl.DataFrame], R], ctx: RunContext) -> Iterator[R]:
        """The function's result for each batch of rows."""
        first = 0
        for piece in self.source.pieces():
            for rows, _ in piece.read():
                number = pl.int_range(first, first + rows.height, dtype=pl.Int64, eager=True).alias(ROW)
                yield function(rows.select(self.columns or pl.all()).with_columns(number))
                first += rows.height
