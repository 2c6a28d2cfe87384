"""Tables to validate: the data itself, or metadata of samples and arrays."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.ingest import parts_of
from lepton_tasks.data.tables.rejected_file import Origins
from lepton_tasks.data.tables.rows import Part, TableRows

_CHUNK_BYTES = 32 << 20


def raw_table(folder: Path) -> pa.Table:
    """``sample_id, uri, label, size_bytes, sha256`` of an ingested data set."""
    columns = ["sample_id", "uri", "label", "size_bytes", "sha256"]
    return pa.concat_tables(pq.read_table(part, columns=columns) for part in sorted(folder.glob("part-*.parquet")))


def features_table(folder: Path) -> pa.Table:
    """Columns of ``ids.parquet`` for each row of a features artifact, ``split, target``, and input statistics.

    ``mean, std`` are of the row's values, bytes scaled to [0, 1]; ``input_sha256`` identifies equal inputs.
    """
    splits = sorted(path.parent for path in folder.glob("*/ids.parquet"))
    return pa.concat_tables(_split_table(split) for split in splits)


def feature_rows(folder: Path, splits: Sequence[str] = SPLITS) -> TableRows | None:
    """The features of some splits as a table, numbered from 0 in the order of `splits`; None if they are arrays."""
    parts: list[Part] = []
    for split in splits:
        for path in sorted((folder / split).glob("part-*.parquet")):
            parts += parts_of(str(path), split, sum(map(len, parts)))
    return TableRows(tuple(parts), sum(map(len, parts))) if parts else None


def of_splits(rows: TableRows, splits: Sequence[str]) -> TableRows:
    """The result of `feature_rows` restricted to some splits, with unchanged row numbers."""
    parts = tuple(part for part in rows.parts if part.origin in splits)
    return dataclasses.replace(rows, parts=parts, height=sum(map(len, parts)))


def origin_of(parts: Sequence[Part]) -> Callable[[int], str]:
    """A function that returns the origin of a row by its number."""
    origins = Origins([part.first for part in parts], [part.origin for part in parts])
    return lambda number: str(origins.of(pl.Series([number]))[0])


def _split_table(folder: Path) -> pa.Table:
    table = pq.read_table(folder / "ids.parquet")
    columns: dict[str, pa.Array] = {"split": pa.array([folder.name] * table.num_rows, pa.string())}
    if (folder / "targets.npy").exists():
        targets = np.load(folder / "targets.npy")
        if targets.ndim == 1:
            columns["target"] = pa.array(targets)
    if (folder / "inputs.npy").exists():
        columns |= _about_inputs(np.load(folder / "inputs.npy", mmap_mode="r"))
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _about_inputs(inputs: np.ndarray) -> dict[str, pa.Array]:
    """Mean, standard deviation and digest of each row."""
    scale = 255 if inputs.dtype == np.uint8 else 1
    means, spreads, digests = [np.empty(0)], [np.empty(0)], []
    step = max(1, _CHUNK_BYTES // max(1, inputs[:1].nbytes))
    for start in range(0, len(inputs), step):
        part = np.asarray(inputs[start : start + step])
        part = part.reshape(len(part), -1)
        means.append(part.mean(axis=1) / scale)
        spreads.append(part.std(axis=1) / scale)
        digests += [hashlib.sha256(row.tobytes()).hexdigest() for row in part]
    return {
        "mean": pa.array(np.concatenate(means)),
        "std": pa.array(np.concatenate(spreads)),
        "input_sha256": pa.array(digests, pa.string()),
    }
