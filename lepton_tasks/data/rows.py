"""What a row is, and how its bytes are read: shared by all data stages."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.cluster import map_chunks

Row = Mapping[str, Any]

_CHUNK_ROWS = 64

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("data", pa.binary()),
        pa.field("label", pa.string()),
    ]
)
RAW_SCHEMA = pa.schema(
    [*SOURCE_SCHEMA, pa.field("size_bytes", pa.int64(), nullable=False), pa.field("sha256", pa.string())]
)


def payload_of(row: Row) -> bytes:
    """The encoded bytes of a row: its ``data``, or what lies at its ``uri``.

    Raises:
        DataError: they cannot be read, or differ from what was ingested.
    """
    try:
        data = _bytes_of(row)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", where=row["uri"]) from error
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError("changed after it was ingested.", where=row["uri"], fix="Run again from `ingest`.")
    return data


def sealed(rows: pa.Table, ctx: RunContext) -> pa.Table:
    """Rows of a source (`SOURCE_SCHEMA`) with the size and sha256 of their bytes (`RAW_SCHEMA`).

    Bytes that cannot be read give size 0 and no sha256, for `clean` to refuse.
    """
    chunks = chunks_of(rows, _CHUNK_ROWS)
    seals = itertools.chain.from_iterable(map_chunks(_seals, chunks, ctx, total=rows.num_rows, unit="files"))
    sizes, digests = zip(*seals, strict=True)
    return pa.table([*rows.columns, pa.array(sizes, pa.int64()), pa.array(digests, pa.string())], schema=RAW_SCHEMA)


def _seals(rows: list[Row]) -> list[tuple[int, str | None]]:
    return [_seal(row) for row in rows]


def _seal(row: Row) -> tuple[int, str | None]:
    try:
        data = _bytes_of(row)
    except OSError:
        return 0, None
    return len(data), hashlib.sha256(data).hexdigest()


def _bytes_of(row: Row) -> bytes:
    data: bytes | None = row.get("data")
    return Path(row["uri"]).read_bytes() if data is None else data


def chunks_of(rows: pa.Table, size: int) -> Iterator[list[Row]]:
    """The rows as lists of at most `size` plain mappings, which every scheduler can send."""
    for batch in rows.to_batches(max_chunksize=size):
        yield batch.to_pylist()
