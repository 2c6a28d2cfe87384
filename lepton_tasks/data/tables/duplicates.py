"""Find duplicate keys across all parts in bounded memory: 96-bit hashes compared by bucket.

Each part has a file with two arrays: the start of each bucket of the finest level, and uint64 [2, rows] with 32 bits
of the first hash above the row's index in its part, ascending, so that a bucket is one slice, and 64 bits of the second
hash in the same order. Sorting integers is several times as fast as an argsort or a hash table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.arrays import NumericBuffer, write_atomically
from lepton_tasks.data.tables.rejections import CODE
from lepton_tasks.data.tables.rows import ROW

_BUCKET_ROWS = 1_000_000  # 16 MB of hashes; sorting needs about three times as much
_PREFIXES = 1 << 12  # maximum number of buckets, by the highest bits of the first hash
_STARTS = np.arange(_PREFIXES, dtype=np.uint64) << np.uint64(52)
_LOW = np.uint64((1 << 32) - 1)

KEY_COLUMNS = ("__key_high", "__key_low")


def key_expressions(keys: Sequence[pl.Expr]) -> list[pl.Expr]:
    """Two independent 64-bit hashes of the keys, null where all keys are null: such rows are never duplicates."""
    known = pl.any_horizontal([key.is_not_null() for key in keys])
    whole = keys[0] if len(keys) == 1 else pl.struct(list(keys))
    return [pl.when(known).then(whole.hash(seed)).alias(name) for seed, name in enumerate(KEY_COLUMNS, start=1)]


def write_keys(folder: Path, rows: pl.DataFrame) -> None:
    """Store the key hashes of one part for `find_duplicates`, except of rows without key and rejected rows."""
    known = (rows[CODE] == 0) & rows[KEY_COLUMNS[0]].is_not_null()
    chosen = known.arg_true().to_numpy()
    if not len(chosen):
        return
    high, low, numbers = (NumericBuffer.of(rows[name]).values for name in (*KEY_COLUMNS, ROW))
    keys = np.empty((2, len(chosen)), np.uint64)
    np.take(high, chosen, out=keys[0])
    keys[0] &= ~_LOW
    keys[0] |= (np.take(numbers, chosen) - numbers[0]).view(np.uint64)
    keys[0].sort()
    places = (keys[0] & _LOW).view(np.int64)
    if len(numbers) <= numbers[-1] - numbers[0]:  # rows rejected by earlier passes are missing
        places = np.searchsorted(numbers, places + numbers[0])
    np.take(low, places, out=keys[1])
    with write_atomically(folder / f"{int(numbers[0]):015d}.npy") as path, path.open("wb") as stream:
        np.save(stream, np.append(np.searchsorted(keys[0], _STARTS), len(chosen)))
        np.save(stream, keys)


def find_duplicates(folder: Path, ctx: RunContext) -> pl.DataFrame:
    """``_row`` of every row whose key occurs in an earlier row, and that row's number as ``same_as``."""
    files = [_KeyFile.of(path) for path in sorted(folder.glob("*.npy"))]
    empty = pl.DataFrame(schema={ROW: pl.Int64, "same_as": pl.Int64})
    if not files:
        return empty
    total = sum(file.rows for file in files)
    count = min(max(1, -(-total // _BUCKET_ROWS)), _PREFIXES)
    edges = [step * _PREFIXES // count for step in range(count + 1)]
    buckets = [_Bucket(tuple(file.within(*ends) for file in files)) for ends in itertools.pairwise(edges)]
    found = map_chunks(_duplicates, buckets, ctx, total=total, unit="keys")
    return pl.concat([empty, *found]).sort(ROW)


@dataclasses.dataclass(frozen=True)
class _KeyFile:
    """The key file of a part.

    Attributes:
        path: The file.
        starts: Start of each bucket of the finest level, and the end of the last.
        offset: Bytes before the keys in the file.
    """

    path: Path
    starts: np.ndarray
    offset: int

    @classmethod
    def of(cls, path: Path) -> _KeyFile:
        with path.open("rb") as stream:
            starts = np.load(stream)
            np.lib.format.read_magic(stream)
            np.lib.format.read_array_header_1_0(stream)
            return cls(path, starts, stream.tell())

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def within(self, low: int, high: int) -> _Slice:
        """The keys in buckets [low, high) of the finest level."""
        start, stop = int(self.starts[low]), int(self.starts[high])
        return _Slice(self.path, stop - start, tuple(self.offset + 8 * (row * self.rows + start) for row in range(2)))


@dataclasses.dataclass(frozen=True)
class _Slice:
    """Location of keys in a file. Read, not memory-mapped: random access to a map would load much of the file."""

    path: Path
    rows: int
    offsets: tuple[int, ...]

    def read(self) -> list[np.ndarray]:
        """The keys and the second hashes."""
        return [np.fromfile(self.path, np.uint64, self.rows, offset=offset) for offset in self.offsets]


@dataclasses.dataclass(frozen=True)
class _Bucket:
    slices: tuple[_Slice, ...]

    def __len__(self) -> int:
        return sum(part.rows for part in self.slices)


def _duplicates(bucket: _Bucket) -> pl.DataFrame:
    starts = np.cumsum([0, *(part.rows for part in bucket.slices)])
    key, low = (np.concatenate(arrays) for arrays in zip(*(part.read() for part in bucket.slices), strict=True))
    ordered = (key & ~_LOW) | np.arange(len(key), dtype=np.uint64)
    ordered.sort()
    same = (ordered[1:] ^ ordered[:-1]) <= _LOW  # candidates; only these few rows are compared in full
    candidate = np.zeros(len(key), np.bool_)
    candidate[1:] |= same
    candidate[:-1] |= same
    index = (ordered[candidate] & _LOW).view(np.int64)
    firsts = np.array([int(part.path.stem) for part in bucket.slices])[np.searchsorted(starts, index, side="right") - 1]
    rows = firsts + (key[index] & _LOW).view(np.int64)
    frame = pl.DataFrame({"high": key[index] >> np.uint64(32), "low": low[index], ROW: rows})
    first = pl.col(ROW).min().over("high", "low")
    return frame.with_columns(same_as=first).filter(pl.col(ROW) != pl.col("same_as")).select(ROW, "same_as")
