"""Value hashes that are stable across library versions, for splits and folds.

Integers, booleans and times are hashed as 64-bit integers, floats by their bits, everything else as UTF-8 text.
"""

from __future__ import annotations

import functools

import numpy as np
import polars as pl
import pyarrow as pa

_BLOCK = 1 << 15  # values hashed at once, so that intermediate results stay in the processor's cache
_STEP = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = 2**64 - 1


def stable_hash(column: pl.Expr, seed: int) -> pl.Expr:
    """Uniformly distributed uint64 hash of each value; null for null."""
    return column.map_batches(functools.partial(hash_values, seed=seed), return_dtype=pl.UInt64, is_elementwise=True)


def hash_values(values: pl.Series, *, seed: int) -> pl.Series:
    """Uniformly distributed uint64 hash of each value; null for null."""
    hashes = _integers(values.rechunk())
    hashes += np.uint64((seed + 1) * int(_STEP) & _MASK)
    _mix(hashes)
    made = pl.Series(values.name, hashes)
    return made.set(values.is_null(), None) if values.has_nulls() else made


def _integers(values: pl.Series) -> np.ndarray:
    """A uint64 representation of each value, as a new array."""
    dtype = values.dtype
    if dtype == pl.Boolean or dtype.is_integer() or dtype.is_temporal():
        bits = values.to_physical().cast(pl.Int64, wrap_numerical=True).fill_null(0).to_numpy()
        return np.array(bits).view(np.uint64)
    if dtype.is_float():
        numbers = values.cast(pl.Float64).fill_null(0.0).fill_nan(float("nan")).to_numpy()
        return np.array(numbers + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
    texts = values.cast(pl.String).fill_null("")
    return np.concatenate(
        [np.empty(0, np.uint64), *(_of_texts(texts.slice(i, _BLOCK)) for i in range(0, len(texts), _BLOCK))]
    )


def _of_texts(texts: pl.Series) -> np.ndarray:
    """Polynomial hash of each text's bytes, modulo 2**64, and of its length."""
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, ends, data = array.cast(pa.large_string()).buffers()
    bounds = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(bounds)
    sums = np.zeros(len(texts), np.uint64)
    filled = lengths > 0
    if filled.any():
        letters = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]].astype(np.uint64) + np.uint64(1)
        places = np.arange(len(letters)) - np.repeat(bounds[:-1] - bounds[0], lengths)
        powers = np.cumprod(np.full(int(lengths.max()), _PRIME))
        sums[filled] = np.add.reduceat(letters * powers[places], (bounds[:-1] - bounds[0])[filled])
    sums += lengths.astype(np.uint64) * _STEP
    _mix(sums)
    return sums


def _mix(hashes: np.ndarray) -> None:
    """Mix in place, so that every output bit depends on all input bits.

    Source: G. L. Steele, D. Lea, C. H. Flood (2014), Fast splittable pseudorandom number generators (SplitMix64).
    """
    shifted = np.empty(min(len(hashes), _BLOCK), np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        x = hashes[start : start + _BLOCK]
        for shift, factor in ((30, _FACTORS[0]), (27, _FACTORS[1]), (31, None)):
            x ^= np.right_shift(x, np.uint64(shift), out=shifted[: len(x)])
            if factor is not None:
                x *= factor
