"""Write the pieces of a source as Parquet parts, and record unreadable rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.table_protocols import Piece, TableSource
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.arrays import write_atomically
from lepton_tasks.data.tables.artifact import parts_entry, write_table
from lepton_tasks.data.tables.rejected_file import REJECTED_SCHEMA
from lepton_tasks.data.tables.rows import ROW, Part

PART_ROWS = 500_000
"""Minimum rows per part, for files with as many: a task of about a second and 100 MB."""


def ingest_table(use_case: UseCase, ctx: RunContext, *, source: TableSource) -> DatasetRef:
    """Write ``table.json``, parts for sources that are not Parquet files, and ``rejected.parquet``.

    Raises:
        DataError: there is nothing to read.
    """
    schema = dict(source.schema())
    _check_names(schema, where=f"{use_case.name}.yaml: data.source")
    draft = ctx.draft()
    parts: list[Part] = []
    refused, first = 0, pl.DataFrame()
    pieces = [_Numbered(number, piece) for number, piece in enumerate(source.pieces())]
    with pq.ParquetWriter(draft.path / "rejected.parquet", REJECTED_SCHEMA) as rejects:
        task = functools.partial(_ingest, draft.path)
        for piece, (path, rejected) in zip(
            pieces, map_chunks(task, pieces, ctx, total=len(pieces), unit="pieces"), strict=True
        ):
            rejects.write_table(rejected.to_arrow().cast(REJECTED_SCHEMA))
            refused += len(rejected)
            first = first if len(first) else rejected.head(1)
            parts += parts_of(path, piece.piece.origin, sum(map(len, parts)))
    rows = sum(map(len, parts))
    if not rows:
        raise DataError(
            f"no row could be read: {refused:,} refused." if refused else "there are no rows to read.",
            where=", ".join(piece.piece.origin for piece in pieces[:3]) or f"{use_case.name}.yaml: data.source",
            fix="See `path` and the other params of the source.",
        )
    if refused:
        where, line, reason = first.select("origin", "line", "reason").row(0)
        place = where if line is None else f"{where}, line {line:,}"
        ctx.log.warning(
            "Refused %s of %s rows while reading; first %s: %s.", f"{refused:,}", f"{rows + refused:,}", place, reason
        )
    columns = {name: str(dtype) for name, dtype in schema.items()}
    write_table(draft.path, columns=columns, parts=parts_entry(parts, draft.path))
    write_json(draft.path / "source.json", {**use_case.data.source.model_dump(), **source.describe()})
    size = sum(Path(path).stat().st_size for path in {part.path for part in parts})
    facts = {"rows": rows, "columns": len(columns), "bytes": size, "refused": refused}
    return ctx.publish(draft, DatasetRef, facts)


def _check_names(schema: Mapping[str, pl.DataType], where: str) -> None:
    for name in schema:
        if name == ROW or name.startswith("__"):
            raise DataError(f"the name of the column {name!r} is reserved.", where=where, fix="Give it another name.")


def parts_of(path: str, origin: str, first: int) -> Iterator[Part]:
    """Divide a file at row group boundaries into parts of about `PART_ROWS` rows; none for an empty file.

    Args:
        path: A Parquet file.
        origin: Origin of its rows.
        first: Number of its first row in the table.

    Raises:
        DataError: it is not a complete Parquet file.
    """
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"is not a complete Parquet file: {str(error).rstrip('.')}.", where=path, fix="Write it again."
        ) from error
    offset = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= PART_ROWS or (rows and group == metadata.num_row_groups - 1):
            yield Part(path, offset, rows, first + offset, origin)
            offset, rows = offset + rows, 0


@dataclasses.dataclass(frozen=True)
class _Numbered:
    number: int
    piece: Piece

    def __len__(self) -> int:
        return 1


def _ingest(folder: Path, numbered: _Numbered) -> tuple[str, pl.DataFrame]:
    """Path of the Parquet file with the piece's rows, and its unreadable rows."""
    piece = numbered.piece
    if piece.parquet is not None:
        return piece.parquet, _rejected(piece, [])
    path = folder / f"part-{numbered.number:05d}.parquet"
    rejects = []
    with write_atomically(path) as aside, contextlib.ExitStack() as stack:
        writer = None
        for rows, refused in piece.read():
            table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or stack.enter_context(pq.ParquetWriter(aside, table.schema))
            writer.write_table(table)
            rejects.append(refused)
        if writer is None:
            raise DataError("did not yield even an empty batch of rows.", where=piece.origin)
        writer.close()
    return str(path), _rejected(piece, rejects)


def _rejected(piece: Piece, batches: list[pl.DataFrame]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={"line": pl.Int64, "text": pl.String, "reason": pl.String})
    return pl.concat([empty, *batches]).select(
        pl.lit("ingest").alias("step"),
        "reason",
        pl.lit(piece.origin).alias("origin"),
        pl.lit(None, pl.Int64).alias("row"),
        "line",
        "text",
    )
