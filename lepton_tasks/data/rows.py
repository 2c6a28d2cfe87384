"""Schema of sample rows and access to their bytes, shared by all data stages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.files import Files, content_of

Row = Mapping[str, Any]

CHUNK_ROWS = 64
"""Maximum number of samples per task."""
_BATCH_ROWS, _BATCH_BYTES = 10_000, 64 << 20

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("data", pa.binary()),
        pa.field("label", pa.string()),
    ]
)
BOX = pa.struct([("label", pa.string()), *((side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax"))])
"""Bounding box in pixels of the upright image, from its top left corner; the label may be null."""

OPTIONAL_COLUMNS = {
    "boxes": pa.list_(BOX),  # null: not annotated; empty: no object
    "group": pa.string(),  # entity that must not be in two splits: a person, a patient, a place
    "video": pa.string(),
    "frame": pa.int64(),  # counted from 0
    "time_s": pa.float64(),  # seconds from the start of the video
    "fault": pa.string(),  # problem found by the source, for `clean` to reject
}
"""Columns that a source may add; they are kept with the row up to the features."""


def source_schema(*optional: str) -> pa.Schema:
    """`SOURCE_SCHEMA` with some of the `OPTIONAL_COLUMNS`."""
    return pa.schema([*SOURCE_SCHEMA, *((name, OPTIONAL_COLUMNS[name]) for name in optional)])


def file_rows(files: Files, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """An unlabelled row per file.

    Local files stay in place; files in archives and at remote addresses are read now, so that the run no longer
    depends on them.
    """
    if files.local:
        yield from ({"sample_id": name, "uri": files.uri(name), "data": None, "label": None} for name in names)
        return
    for name, data in files.read(names):
        yield {"sample_id": name, "uri": files.uri(name), "data": data, "label": None}


def in_batches(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows as tables of bounded length and size; keys not in the schema are dropped."""
    batch: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row["data"] or b"")
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield pa.Table.from_pylist(batch, schema=schema)
            batch, size = [], 0
    if batch:
        yield pa.Table.from_pylist(batch, schema=schema)


def payload_of(row: Row) -> bytes:
    """The encoded bytes of a row: its ``data``, or the content of its ``uri``.

    Raises:
        DataError: they cannot be read, or changed after ingestion.
    """
    try:
        data = _bytes_of(row)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", where=row["uri"]) from error
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError("changed after ingestion.", where=row["uri"], fix="Run again from `ingest`.")
    return data


def with_digests(rows: pa.Table, ctx: RunContext) -> pa.Table:
    """Add ``size_bytes: int64`` and ``sha256: string`` of the bytes to a source's rows.

    Rows with a fault or unreadable bytes have size 0 and no sha256, for `clean` to reject.
    """
    read = [name for name in ("uri", "data", "fault") if name in rows.column_names]
    chunks = chunks_of(rows.select(read), CHUNK_ROWS)
    here = ctx.environment.dask.address is not None and rows["data"].null_count < rows.num_rows
    # Bytes already in memory are not sent through a scheduler just to be hashed.
    found = map(_digests, chunks) if here else map_chunks(_digests, chunks, ctx, total=rows.num_rows, unit="files")
    sizes, digests = zip(*itertools.chain.from_iterable(found), strict=True)
    rows = rows.append_column("size_bytes", pa.array(sizes, pa.int64()))
    return rows.append_column("sha256", pa.array(digests, pa.string()))


def _digests(rows: list[Row]) -> list[tuple[int, str | None]]:
    return [_digest(row) for row in rows]


def _digest(row: Row) -> tuple[int, str | None]:
    if row.get("fault"):
        return 0, None
    try:
        data = _bytes_of(row)
    except OSError:
        return 0, None
    return len(data), hashlib.sha256(data).hexdigest()


def _bytes_of(row: Row) -> bytes:
    data: bytes | None = row.get("data")
    return content_of(Path(row["uri"])) if data is None else data


def chunks_of(rows: pa.Table, size: int) -> Iterator[list[Row]]:
    """The rows as lists of at most `size` dicts, which any scheduler can serialise."""
    for batch in rows.to_batches(max_chunksize=size):
        yield batch.to_pylist()
