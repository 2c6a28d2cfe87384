"""Decode every sample once; keep the array and the statistics that cleaning steps need."""

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
    """One light row per sample, in order: what is known of it, what the extractor finds, or the ``error`` it raised.

    Args:
        extractor: Decodes.
        parts: The ingested rows, as Parquet files.
        ctx: The run.
        file: Where the arrays are written, uint8 [rows, *extractor.shape]: zeros where a sample cannot be decoded.
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
        # Written, not mapped: pages that a map has dirtied count as memory of the process until they are on disk.
        shape = (total, *extractor.shape)
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for found, arrays in probed:
            tables.append(pa.Table.from_pylist(found, schema=columns))
            stream.write(arrays.data if isinstance(arrays, np.ndarray) else _taken(arrays))
    return pa.concat_tables(tables).append_column(POSITION, pa.array(range(total), pa.int64()))


@dataclasses.dataclass(frozen=True)
class _Span:
    """Rows of one row group of a part, told by their place: a scheduler should not carry the files of archives."""

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
    """Rows in order, at most `size` together."""
    for part in parts:
        metadata = pq.read_metadata(part)
        for group in range(metadata.num_row_groups):
            total = metadata.row_group(group).num_rows
            for start in range(0, total, size):
                yield _Span(str(part), group, start, min(size, total - start))


def _probe_chunk(
    extractor: FeatureExtractor, aside: Path | None, span: _Span
) -> tuple[list[dict[str, Any]], np.ndarray | Path]:
    """What is found of each row, and the arrays; on a cluster (`aside`) a file of them, as a scheduler should not carry
    pixels.
    """
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


def _taken(file: Path) -> bytes:
    """What is in a file, which is then removed."""
    content = file.read_bytes()
    file.unlink()
    return content
