"""A view of table rows for later stages: selected from Parquet, transformed on read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.memory import share_memory

if TYPE_CHECKING:
    from lepton_tasks.data.tables.statistics import Summaries

ROW = "_row"
"""The column that numbers the rows of the whole table, int64."""

RAW_ROW = "__raw_row"
"""Of a table that a step wrote anew: the number the row had in the table as it came, null if the step made it."""

R = TypeVar("R")
Change = Callable[[pl.LazyFrame], pl.LazyFrame]


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of one Parquet file: what one task works on.

    Attributes:
        path: The file.
        offset: Its first row in the file.
        rows: How many.
        first: Number of its first row in the whole table.
        origin: Where the rows came from, for people.
        changed: An Arrow file with the columns that cleaning steps wrote anew, a row for each row; None if there are
            none.
    """

    path: str
    offset: int
    rows: int
    first: int
    origin: str
    changed: str | None = None

    def __len__(self) -> int:
        return self.rows

    def head(self, rows: int) -> Part:
        """Its first rows."""
        return dataclasses.replace(self, rows=min(rows, self.rows))


@dataclasses.dataclass(frozen=True)
class TableRows:
    """Rows of a table, or of one split of it, none of which is in memory. Picklable.

    Attributes:
        parts: Where they lie.
        height: How many there are, before any fitted step refuses some.
        codes: A file with a uint8 for every row of the table; None if all rows are seen.
        seen: The rows with one of these codes are seen.
        changes: What is done to them when they are read, in order; picklable.
        columns: The columns that are seen; None for all.
        known: What an earlier pass found out about the rows' columns.
    """

    parts: tuple[Part, ...]
    height: int
    codes: str | None = None
    seen: tuple[int, ...] = (0,)
    changes: tuple[Change, ...] = ()
    columns: tuple[str, ...] | None = None
    known: Summaries | None = dataclasses.field(default=None, compare=False)

    @functools.cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """The columns and their types, as they are after the changes."""
        part = self.parts[0]
        anew = {} if part.changed is None else dict(pl.read_ipc_schema(part.changed))
        empty = pl.LazyFrame(schema=dict(pl.read_parquet_schema(part.path)) | anew)
        for change in self.changes:
            empty = change(empty)
        schema = visible(empty.collect_schema())
        return schema if self.columns is None else {name: schema[name] for name in self.columns}

    def select(self, columns: Sequence[str]) -> TableRows:
        """The same rows with these columns only; no other is read from disk."""
        return dataclasses.replace(self, columns=tuple(columns))

    def changed(self, *changes: Change) -> TableRows:
        """The same rows with further changes."""
        return dataclasses.replace(self, changes=(*self.changes, *changes), known=None)

    def knowing(self, known: Summaries | None) -> TableRows:
        """The same rows with what is known about them."""
        return dataclasses.replace(self, known=known)

    def map(self, function: Callable[[pl.DataFrame], R], ctx: RunContext, *, unit: str = "rows") -> Iterator[R]:
        """The function's result for each part, in order, computed on Dask.

        Args:
            function: Gets the part's rows, `ROW` among the columns; picklable.
            ctx: Says where to compute, and is told the progress.
            unit: What a row is called in the progress line.
        """
        yield from self.map_parts(functools.partial(_rows_alone, function), ctx, unit=unit)

    def map_parts(
        self, function: Callable[[Part, pl.DataFrame], R], ctx: RunContext, *, unit: str = "rows"
    ) -> Iterator[R]:
        """As `map`, for a function that is also given the part."""
        task = functools.partial(_on_part, function, dataclasses.replace(self, parts=(), known=None))
        yield from map_chunks(task, self.parts, ctx, total=sum(map(len, self.parts)), unit=unit)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows part by part, read in this process; `ROW` is among the columns."""
        return (self.read(part) for part in self.parts)

    def read(self, part: Part) -> pl.DataFrame:
        """The rows of one part; `ROW` is among the columns."""
        return self.lazy(part).collect()

    def lazy(self, part: Part) -> pl.LazyFrame:
        """The query for the rows of one part."""
        frame = scan(part)
        if part.changed is not None:
            frame = frame.with_columns(map(pl.lit, _mapped(part.changed).head(part.rows)))
        if self.codes is not None:
            codes = np.load(self.codes, mmap_mode="r")[part.first : part.first + part.rows]
            seen = codes == self.seen[0] if len(self.seen) == 1 else np.isin(codes, self.seen)
            # Opaque to the optimiser on purpose: a mask belongs to whole parts, whatever is pushed below it.
            frame = frame.map_batches(
                lambda rows: rows.filter(seen), predicate_pushdown=False, slice_pushdown=False, projection_pushdown=True
            )
        for change in self.changes:
            frame = change(frame)
        return frame if self.columns is None else frame.select(ROW, *self.columns)


def visible(schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns that are the user's: not `ROW`, nor those that steps and stages keep to themselves."""
    return {name: dtype for name, dtype in schema.items() if name != ROW and not name.startswith("__")}


def scan(part: Part) -> pl.LazyFrame:
    """The query for all rows of a part as they lie, numbered."""
    frame = pl.scan_parquet(part.path).slice(part.offset, part.rows)
    return frame.with_row_index(ROW, offset=part.first).with_columns(pl.col(ROW).cast(pl.Int64))


def _mapped(path: str) -> pl.DataFrame:
    """An Arrow file as memory: nothing is read until it is looked at, and what is not looked at never is."""
    with pa.memory_map(path) as file:
        return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(file).read_all()))


def _rows_alone(function: Callable[[pl.DataFrame], R], part: Part, frame: pl.DataFrame) -> R:
    return function(frame)


def _on_part(function: Callable[[Part, pl.DataFrame], Any], rows: TableRows, part: Part) -> Any:
    share_memory()
    try:
        frame = rows.read(part)
    except (OSError, pl.exceptions.ComputeError) as error:
        _check_file(part.path)
        raise error
    return function(part, frame)


def _check_file(path: str) -> None:
    """Raise `DataError` if it is no whole Parquet file."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot be read: {error}.", where=path, fix="Run again from `ingest`.") from error
