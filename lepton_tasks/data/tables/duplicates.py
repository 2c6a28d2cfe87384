"""Rows with equal keys, found over all parts in bounded memory: hashes of 96 bits, compared bucket by bucket."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.arrays import written_aside
from lepton_tasks.data.tables.rows import ROW

_BUCKET_ROWS = 1_000_000  # 16 MB of hashes; sorting needs about three times as much

_PREFIXES, _PREFIX_SHIFT = 1 << 16, 48
_PLACE_BITS = np.uint64(32)  # of the second hash 32 bits are kept, the rest are the place of the row in its part

KEY_COLUMNS = ("__key_high", "__key_low")


def key_expressions(keys: Sequence[pl.Expr]) -> list[pl.Expr]:
    """Two independent 64-bit hashes of the keys, null where all keys are null: such a row equals no other."""
    known = pl.any_horizontal([key.is_not_null() for key in keys])
    whole = keys[0] if len(keys) == 1 else pl.struct(list(keys))
    return [pl.when(known).then(whole.hash(seed)).alias(name) for seed, name in enumerate(KEY_COLUMNS, start=1)]


def write_keys(folder: Path, rows: pl.DataFrame) -> None:
    """Keep the hashes of one part's rows for `find_duplicates`, in the order of their first 16 bits.

    A bucket is then one slice of the file.
    """
    rows = rows.drop_nulls(KEY_COLUMNS[0])
    if not len(rows):
        return
    high, low = (rows[name].to_numpy() for name in KEY_COLUMNS)
    numbers = rows[ROW].to_numpy()
    place = (low << _PLACE_BITS) | (numbers - numbers[0]).astype(np.uint64)
    order = np.argsort((high >> _PREFIX_SHIFT).astype(np.uint16), kind="stable")  # 16 bits: a radix sort, 5 x as fast
    keys = np.empty((2, len(order)), np.uint64)
    for column, values in enumerate((high, place)):
        np.take(values, order, out=keys[column])
    with written_aside(folder / f"{int(numbers[0]):015d}.npy") as path, path.open("wb") as stream:
        np.save(stream, keys)


def find_duplicates(folder: Path, ctx: RunContext) -> pl.DataFrame:
    """``_row`` and ``same_as`` of every row whose key an earlier row, number ``same_as``, has."""
    files = sorted(str(path) for path in folder.glob("*.npy"))
    empty = pl.DataFrame(schema={ROW: pl.Int64, "same_as": pl.Int64})
    if not files:
        return empty
    total = sum(np.load(path, mmap_mode="r").shape[1] for path in files)
    count = min(max(1, -(-total // _BUCKET_ROWS)), _PREFIXES)
    edges = [step * _PREFIXES // count for step in range(count + 1)]
    buckets = [_Bucket(edges[i], edges[i + 1], total // count) for i in range(count)]
    found = map_chunks(functools.partial(_duplicates, files), buckets, ctx, total=total, unit="keys")
    return pl.concat([empty, *found]).sort(ROW)


@dataclasses.dataclass(frozen=True)
class _Bucket:
    low: int
    high: int
    rows: int

    def __len__(self) -> int:
        return self.rows


def _duplicates(files: Sequence[str], bucket: _Bucket) -> pl.DataFrame:
    slices = [_slice(np.load(path, mmap_mode="r"), bucket) for path in files]
    firsts = np.repeat([int(Path(path).stem) for path in files], [keys.shape[1] for keys in slices])
    high, place = np.concatenate(slices, axis=1)
    # Few keys are met twice: only their rows are compared in full. Sorting takes a fifth of the time of a hash table.
    ordered = np.sort(high)
    twice = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]])
    met = pl.Series(high).is_in(twice.implode()).to_numpy()
    high, place, firsts = high[met], place[met], firsts[met]
    rows = firsts + (place & np.uint64((1 << 32) - 1)).astype(np.int64)
    frame = pl.DataFrame({"high": high, "low": place >> _PLACE_BITS, ROW: rows})
    first = pl.col(ROW).min().over("high", "low")
    return frame.with_columns(same_as=first).filter(pl.col(ROW) != pl.col("same_as")).select(ROW, "same_as")


def _slice(keys: np.ndarray, bucket: _Bucket) -> np.ndarray:
    """The keys of a bucket: its edges fall between two prefixes, which are in order."""
    start = np.searchsorted(keys[0], np.uint64(bucket.low << _PREFIX_SHIFT))
    last = bucket.high == _PREFIXES
    stop = keys.shape[1] if last else np.searchsorted(keys[0], np.uint64(bucket.high << _PREFIX_SHIFT))
    return keys[:, start:stop]
