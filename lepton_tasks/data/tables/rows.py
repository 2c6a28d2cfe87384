"""A lazy view of table rows: selected from Parquet parts, transformed on read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.memory import use_shared_heap
from lepton_tasks.data.tables.summaries import Summaries

ROW = "_row"
"""Column with the row number in the whole table, int64."""

RAW_ROW = "__raw_row"
"""Column of a table rewritten by a step: the row number in the raw table, null for rows created by the step."""

R = TypeVar("R")
Change = Callable[[pl.LazyFrame], pl.LazyFrame]


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of one Parquet file: the input of one task.

    Attributes:
        path: The file.
        offset: Its first row in the file.
        rows: Number of rows.
        first: Number of its first row in the whole table.
        origin: Origin of the rows, for messages.
        changed: An Arrow file with the columns that cleaning steps changed, one row per row; None if there are none.
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
        """A part with only its first rows."""
        return dataclasses.replace(self, rows=min(rows, self.rows))


@dataclasses.dataclass(frozen=True)
class TableRows:
    """Rows of a table or of one split, not in memory. Picklable.

    Attributes:
        parts: The parts of the table.
        height: Number of rows, before rejections by fitted steps.
        codes: A file with a uint8 code per row of the table; None to select all rows.
        selected_codes: Rows with one of these codes are selected.
        changes: Transformations on read, in order; picklable.
        columns: The selected columns; None for all.
        summaries: Column statistics that an earlier pass has computed.
    """

    parts: tuple[Part, ...]
    height: int
    codes: str | None = None
    selected_codes: tuple[int, ...] = (0,)
    changes: tuple[Change, ...] = ()
    columns: tuple[str, ...] | None = None
    summaries: Summaries | None = dataclasses.field(default=None, compare=False)

    @functools.cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Columns and types after the changes."""
        part = self.parts[0]
        changed = {} if part.changed is None else dict(pl.read_ipc_schema(part.changed))
        empty = pl.LazyFrame(schema=dict(pl.read_parquet_schema(part.path)) | changed)
        for change in self.changes:
            empty = change(empty)
        schema = visible(empty.collect_schema())
        return schema if self.columns is None else {name: schema[name] for name in self.columns}

    def select(self, columns: Sequence[str]) -> TableRows:
        """The same rows with only these columns; others are not read from disk."""
        return dataclasses.replace(self, columns=tuple(columns))

    def changed(self, *changes: Change) -> TableRows:
        """The same rows with further changes."""
        return dataclasses.replace(self, changes=(*self.changes, *changes), summaries=None)

    def with_summaries(self, summaries: Summaries | None) -> TableRows:
        """The same rows with precomputed column statistics."""
        return dataclasses.replace(self, summaries=summaries)

    def map(self, function: Callable[[pl.DataFrame], R], ctx: RunContext, *, unit: str = "rows") -> Iterator[R]:
        """The function's result for each part, in order, computed on Dask.

        Args:
            function: Receives the part's rows, including the column `ROW`; picklable.
            ctx: Run context: Dask settings and progress.
            unit: Name of the rows in the progress line.
        """
        yield from self.map_parts(functools.partial(_without_part, function), ctx, unit=unit)

    def map_parts(
        self, function: Callable[[Part, pl.DataFrame], R], ctx: RunContext, *, unit: str = "rows"
    ) -> Iterator[R]:
        """Like `map`, for a function that also receives the part."""
        task = functools.partial(_on_part, function, dataclasses.replace(self, parts=(), summaries=None))
        yield from map_chunks(task, self.parts, ctx, total=sum(map(len, self.parts)), unit=unit)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows part by part, including the column `ROW`, read in this process."""
        return (self.read(part) for part in self.parts)

    def read(self, part: Part) -> pl.DataFrame:
        """The rows of one part, including the column `ROW`."""
        return self.lazy(part).collect()

    def lazy(self, part: Part) -> pl.LazyFrame:
        """The query for the rows of one part."""
        frame = scan(part)
        if part.changed is not None:
            frame = frame.with_columns(map(pl.lit, _memory_map(part.changed).head(part.rows)))
        if self.codes is not None:
            codes = np.load(self.codes, mmap_mode="r")[part.first : part.first + part.rows]
            accepted = self.selected_codes
            selected = codes == accepted[0] if len(accepted) == 1 else np.isin(codes, accepted)
            # Opaque to the optimizer on purpose: the mask applies to the whole part, so nothing may be pushed below.
            frame = frame.map_batches(
                lambda rows: rows.filter(selected),
                predicate_pushdown=False,
                slice_pushdown=False,
                projection_pushdown=True,
            )
        for change in self.changes:
            frame = change(frame)
        return frame if self.columns is None else frame.select(ROW, *self.columns)


def visible(schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The user's columns: without `ROW` and private columns of steps and stages."""
    return {name: dtype for name, dtype in schema.items() if name != ROW and not name.startswith("__")}


def scan(part: Part) -> pl.LazyFrame:
    """The query for all unchanged rows of a part, with `ROW`."""
    frame = pl.scan_parquet(part.path).slice(part.offset, part.rows)
    return frame.with_row_index(ROW, offset=part.first).with_columns(pl.col(ROW).cast(pl.Int64))


def _memory_map(path: str) -> pl.DataFrame:
    """A memory-mapped Arrow file: only accessed columns are read."""
    with pa.memory_map(path) as file:
        return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(file).read_all()))


def _without_part(function: Callable[[pl.DataFrame], R], part: Part, frame: pl.DataFrame) -> R:
    return function(frame)


def _on_part(function: Callable[[Part, pl.DataFrame], Any], rows: TableRows, part: Part) -> Any:
    use_shared_heap()
    try:
        frame = rows.read(part)
    except (OSError, pl.exceptions.ComputeError) as error:
        _check_file(part.path)
        raise error
    return function(part, frame)


def _check_file(path: str) -> None:
    """Raise `DataError` if it is not a complete Parquet file."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot be read: {error}.", where=path, fix="Run again from `ingest`.") from error
