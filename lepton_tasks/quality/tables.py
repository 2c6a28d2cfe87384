"""The light tables that expectations look at: one row a sample, no payload."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK_BYTES = 32 << 20


def raw_table(folder: Path) -> pa.Table:
    """``sample_id, uri, label, size_bytes, sha256`` of an ingested data set."""
    columns = ["sample_id", "uri", "label", "size_bytes", "sha256"]
    return pa.concat_tables(pq.read_table(part, columns=columns) for part in sorted(folder.glob("part-*.parquet")))


def features_table(folder: Path) -> pa.Table:
    """``sample_id, uri, label, split, target`` of a transformed data set, and what its inputs hold.

    ``mean, std`` are of the row's uint8 values in [0, 1]; ``input_sha256`` tells equal inputs.
    """
    splits = sorted(path.parent for path in folder.glob("*/inputs.npy"))
    return pa.concat_tables(_split_table(split) for split in splits)


def _split_table(folder: Path) -> pa.Table:
    table = pq.read_table(folder / "ids.parquet")
    inputs = np.load(folder / "inputs.npy", mmap_mode="r")
    means, spreads, digests = [], [], []
    step = max(1, _CHUNK_BYTES // max(1, inputs[0].nbytes))
    for start in range(0, len(inputs), step):
        part = np.asarray(inputs[start : start + step]).reshape(-1, inputs[0].size)
        means.append(part.mean(axis=1) / 255)
        spreads.append(part.std(axis=1) / 255)
        digests += [hashlib.sha256(row.tobytes()).hexdigest() for row in part]
    columns = {
        "split": [folder.name] * table.num_rows,
        "target": np.load(folder / "targets.npy"),
        "mean": np.concatenate(means),
        "std": np.concatenate(spreads),
        "input_sha256": digests,
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table
