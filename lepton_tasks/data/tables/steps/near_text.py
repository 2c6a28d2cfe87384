"""Cleaning step for near-duplicate texts: MinHash and locality-sensitive hashing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.data.tables.steps.text import Columns, check_text, joined_text

_BANDS, _BAND_ROWS = 20, 6  # texts of similarity 0.8 share a band with probability 0.998, of 0.3 with 0.014
_CHUNK_BYTES = 4 << 20
_BASE = np.uint64(0x100000001B3)  # the prime of FNV-1a, 64 bits
_SEED = 20_250_101


@dataclasses.dataclass(frozen=True)
class NearDuplicateText:
    """Reject texts nearly identical to an earlier one, so that they do not leak into the test split.

    Texts are compared case-insensitively, as sets of `shingle` consecutive bytes; candidates are found by MinHash
    signatures, and their exact Jaccard similarity is then computed. Deterministic: random numbers have a fixed seed. A
    signature takes 480 bytes per row; a row is compared with at most 40 others.

    Args:
        columns: Text columns, joined by spaces.
        threshold: Minimum Jaccard similarity of duplicates.
        shingle: Bytes per shingle; shorter texts must be equal.

    Source: Broder, On the resemblance and containment of documents, 1997; Leskovec, Rajaraman, Ullman, Mining of
    Massive Datasets, chapter 3 (bands of signatures; shingles of 5 to 9 characters).
    """

    columns: Columns
    threshold: Annotated[float, pydantic.Field(ge=0.6, le=1)] = 0.8
    shingle: Annotated[int, pydantic.Field(ge=2, le=64)] = 8

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` unless the columns are text."""
        check_text(schema, self.columns)

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The first of each group of near-duplicates, and the others with the earlier row they resemble."""
        texts = frame.select(joined_text(self.columns).str.to_lowercase()).to_series()
        shingles = Shingles(texts, self.shingle)
        first, second = _candidates(_signatures(shingles))
        similarity = np.fromiter(
            (shingles.similarity(a, b) for a, b in zip(first, second, strict=True)), np.float64, count=len(first)
        )
        alike = pl.DataFrame({"first": first, "second": second, "similarity": similarity})
        alike = alike.filter((pl.col("similarity") >= self.threshold) & (texts.gather(second) != ""))
        alike = alike.sort("second", "first").unique("second", keep="first", maintain_order=True)
        rows = frame[ROW]
        refused = alike.select(
            rows.gather(alike["second"]).alias(ROW),
            pl.format("{} alike to row {}", pl.col("similarity").round(2), rows.gather(alike["first"])).alias("reason"),
        )
        return frame.filter(~pl.int_range(pl.len()).is_in(alike["second"].implode())), refused


class Shingles:
    """Hashes of all runs of `width` bytes in each text; a shorter text is one shingle.

    Attributes:
        hashes: uint64, the concatenated hashes of all texts.
        offsets: int64 [N + 1], start and end of each text's hashes; every text has at least one.
    """

    def __init__(self, texts: pl.Series, width: int) -> None:
        sizes = texts.str.len_bytes().to_numpy().astype(np.int64)
        counts = np.maximum(sizes - width + 1, 1)
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        starts = np.concatenate([[0], np.cumsum(sizes + width)])
        # Zero padding after each text separates the texts and completes short ones.
        padded = b"".join(text.encode() + bytes(width) for text in texts.to_list())
        content = np.frombuffer(padded, np.uint8)
        rolling = np.zeros(max(0, len(content) - width + 1), np.uint64)
        for position in range(width):
            rolling = rolling * _BASE + content[position : position + len(rolling)]
        place = np.arange(self.offsets[-1]) + np.repeat(starts[:-1] - self.offsets[:-1], counts)
        self.hashes = _mixed(rolling[place])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def similarity(self, first: int, second: int) -> float:
        """Jaccard similarity of two texts: shared shingles / all shingles."""
        a, b = (np.unique(self.hashes[self.offsets[i] : self.offsets[i + 1]]) for i in (first, second))
        shared = len(np.intersect1d(a, b, assume_unique=True))
        return shared / (len(a) + len(b) - shared)


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every input bit affects all output bits.

    Source: the finaliser of SplitMix64; Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _signatures(shingles: Shingles) -> np.ndarray:
    """MinHash signatures, uint32 [N, bands * rows]: per hash function the minimum over a text's shingles."""
    random = np.random.Generator(np.random.PCG64(_SEED))  # NumPy guarantees a stable stream
    multipliers = random.integers(2**64, size=_BANDS * _BAND_ROWS, dtype=np.uint64) | np.uint64(1)
    signatures = np.empty((len(shingles), len(multipliers)), np.uint32)
    begin = 0
    while begin < len(shingles):
        limit = shingles.offsets[begin] + _CHUNK_BYTES
        end = max(begin + 1, int(np.searchsorted(shingles.offsets, limit, side="right")) - 1)
        hashes = shingles.hashes[shingles.offsets[begin] : shingles.offsets[end]]
        starts = shingles.offsets[begin:end] - shingles.offsets[begin]
        for column, multiplier in enumerate(multipliers):
            high = ((hashes * multiplier) >> np.uint64(32)).astype(np.uint32)
            signatures[begin:end, column] = np.minimum.reduceat(high, starts)
        begin = end
    return signatures


def _candidates(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidate pairs, earlier row first: each row with the first and the previous row of its group in a band."""
    pairs = []
    for band in range(_BANDS):
        keys = _mixed(_folded(signatures[:, band * _BAND_ROWS : (band + 1) * _BAND_ROWS]))
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        group = np.concatenate([[0], np.cumsum(~same)]) if len(order) else np.empty(0, np.int64)
        heads = np.searchsorted(group, group[1:])
        later = order[1:][same]
        pairs += [np.stack([order[:-1][same], later]), np.stack([order[heads[same]], later])]
    first, second = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return first, second


def _folded(part: np.ndarray) -> np.ndarray:
    keys: np.ndarray = np.zeros(len(part), np.uint64)
    for column in part.T:
        keys = _mixed(keys * _BASE + column)
    return keys
