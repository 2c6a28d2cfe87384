"""Convert stored rows back into requests, for examples, parity checks and model comparison."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    import polars as pl

    from lepton_tasks.data.tables.rows import TableRows


_RUNS = 16  # runs of consecutive rows in a sample: reads few parts, yet covers the whole table
_MAX_BYTES = 64 << 20  # of arrays in a spread sample


def requests_of(
    use_case: UseCase,
    ctx: RunContext,
    *,
    splits: DatasetRef,
    features: Path,
    fitted: Mapping[str, Any],
    limit: int,
    split: str = "test",
    spread: bool = False,
) -> list[bytes]:
    """Encode at most `limit` rows of a split as request bodies, in order; fewer for large images.

    Args:
        use_case: The use case.
        ctx: Run context.
        splits: The split rows.
        features: Folder of the features artifact.
        fitted: Fitted values of the feature extractor.
        limit: Maximum number of rows.
        split: Name of the split.
        spread: Whether to sample the whole split instead of its beginning.
    """
    spec, folder = use_case.features, features / split
    where = f"{use_case.name}.yaml: features"
    if not takes_tables(use_case):
        stored = np.load(folder / "inputs.npy", mmap_mode="r")
        most = min(limit, max(_RUNS, _MAX_BYTES // max(1, stored[:1].nbytes)))
        arrays = stored[sample_indices(len(stored), most)] if spread else stored[:limit]
        return FEATURES.build(spec.name, spec.params, where=where).requests(arrays)
    import pyarrow.parquet as pq

    from lepton_tasks.data.tables.artifact import open_splits

    extractor: Any = TABLE_FEATURES.build(spec.name, spec.params, where=where)
    numbers = pq.read_table(folder / "ids.parquet", columns=["row"])["row"].to_numpy()
    numbers = numbers[sample_indices(len(numbers), limit)] if spread else numbers[:limit]
    found: list[bytes] = extractor.requests(open_splits(ctx, splits)[split], numbers, fitted)
    return found


def sample_indices(rows: int, limit: int) -> np.ndarray:
    """Ascending indices of at most `limit` of `rows` rows: evenly spaced runs, including the first and last row."""
    if rows <= limit:
        return np.arange(rows)
    length = max(1, limit // _RUNS)
    starts = np.linspace(0, rows - length, min(_RUNS, limit)).astype(np.int64)
    return np.unique(starts[:, np.newaxis] + np.arange(length))


def select_rows(rows: TableRows, numbers: np.ndarray) -> pl.DataFrame:
    """The rows with these numbers, int64 [N] ascending, in order; reads only the parts that contain them."""
    import polars as pl

    from lepton_tasks.data.tables.rows import ROW

    frames = []
    for part in rows.parts:
        first, last = np.searchsorted(numbers, [part.first, part.first + part.rows])
        if first < last:
            frames.append(rows.read(part).filter(pl.col(ROW).is_in(numbers[first:last].tolist())))
    return pl.concat(frames)


def json_request(row: Mapping[str, Any], columns: Sequence[str]) -> bytes:
    """Columns of a row as a JSON object; times as ISO 8601, NaN and infinities as null."""
    return json.dumps({name: _plain(row[name]) for name in columns}, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.date | dt.datetime | dt.time):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
