"""Decode every sample once; keep its array and the metadata for cleaning steps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import FeatureExtractor
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.rows import CHUNK_ROWS, Row, payload_of
from lepton_tasks.data.samples import POSITION

_CHUNK_BYTES = 16 << 20


def probe_rows(extractor: FeatureExtractor, parts: Sequence[Path], ctx: RunContext, file: Path) -> pa.Table:
    """One row of metadata per sample, in order: its columns, the extractor's facts, or the ``error`` it raised.

    Args:
        extractor: Decodes the samples.
        parts: Parquet files of the ingested rows.
        ctx: Run context.
        file: Output file of the arrays, uint8 [rows, *extractor.shape]: zeros for undecodable samples.
    """
    schema = pq.read_schema(parts[0])
    known = [field for field in schema if field.name != "data"]
    columns = pa.schema([*known, *extractor.facts.items(), ("error", pa.string())])
    total = sum(pq.read_metadata(part).num_rows for part in parts)
    size = max(1, min(CHUNK_ROWS, _CHUNK_BYTES // math.prod(extractor.shape)))
    tables = [columns.empty_table()]
    with contextlib.ExitStack() as stack:
        aside = None
        if ctx.environment.dask.address is not None:
            folder = tempfile.TemporaryDirectory(dir=file.parent, prefix=".arrays-", ignore_cleanup_errors=True)
            aside = Path(stack.enter_context(folder))
        task = functools.partial(_probe_chunk, extractor, aside)
        probed = map_chunks(task, _chunks(parts, size), ctx, total=total, unit="samples")
        stream = stack.enter_context(file.open("wb"))
        # Not memory-mapped: dirty pages of a map count as memory of the process until written to disk.
        shape = (total, *extractor.shape)
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for found, arrays in probed:
            tables.append(pa.Table.from_pylist(found, schema=columns))
            stream.write(arrays.data if isinstance(arrays, np.ndarray) else _read_and_remove(arrays))
    return pa.concat_tables(tables).append_column(POSITION, pa.array(range(total), pa.int64()))


@dataclasses.dataclass(frozen=True)
class _Span:
    """A reference to rows in a row group, so that the scheduler does not transfer their bytes."""

    part: str
    group: int
    start: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def read(self) -> list[Row]:
        with pq.ParquetFile(self.part) as file:
            rows: list[Row] = (
                file.read_row_group(self.group, use_threads=False).slice(self.start, self.rows).to_pylist()
            )
        return rows


def _chunks(parts: Sequence[Path], size: int) -> Iterator[_Span]:
    """Spans of at most `size` rows, in order."""
    for part in parts:
        metadata = pq.read_metadata(part)
        for group in range(metadata.num_row_groups):
            total = metadata.row_group(group).num_rows
            for start in range(0, total, size):
                yield _Span(str(part), group, start, min(size, total - start))


def _probe_chunk(
    extractor: FeatureExtractor, aside: Path | None, span: _Span
) -> tuple[list[dict[str, Any]], np.ndarray | Path]:
    """Metadata and arrays of the rows; with `aside` a file of the arrays, to keep pixels off the network."""
    rows = span.read()
    arrays = np.zeros((len(rows), *extractor.shape), np.uint8)
    found = []
    for row, array in zip(rows, arrays, strict=True):
        known = {name: value for name, value in row.items() if name != "data"}
        if row.get("fault") or row["sha256"] is None:
            found.append(known | {"error": row.get("fault") or "the file cannot be read."})
            continue
        payload = payload_of(row)
        try:
            facts, array[:] = extractor.probe(payload)
        except DataError as error:
            facts = {"error": error.what}
        found.append(known | facts)
    if aside is None:
        return found, arrays
    with tempfile.NamedTemporaryFile(dir=aside, delete=False) as stream:  # a chunk may be computed twice
        stream.write(arrays.data)
    return found, Path(stream.name)


def _read_and_remove(file: Path) -> bytes:
    content = file.read_bytes()
    file.unlink()
    return content
