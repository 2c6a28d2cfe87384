"""Summaries of a column that parts make by themselves and that merge: the same for one part as for a thousand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

MANTISSA_BITS = 9
"""Bins per power of two are ``2 ** MANTISSA_BITS``: a bin is at most 1/512 (0.2 %) of its values wide."""
EXACT_VALUES = 1024
"""Up to so many different values are counted one by one, and quantiles are exact."""
_SHIFT = 52 - MANTISSA_BITS
_MAGNITUDE = np.int64(0x7FFF_FFFF_FFFF_FFFF)
_PROBE = 4 * EXACT_VALUES
_BLOCK = 1 << 16  # values that stay in the processor's cache through all passes over them: half the time at 1M values


class NumericSketch:
    """Count, nulls, moments, ends and quantiles of numbers, in bounded memory and one pass.

    Counts and ends are exact. Mean and sum of squares are merged by Chan's formula. Quantiles are exact while there
    are at most `EXACT_VALUES` different values; beyond, values are counted in bins of a log-linear histogram, and a
    quantile is off by at most the width of a bin, 0.2 % of its value. Which of the two holds, and every count, depends
    on the values alone, not on how they were cut into parts; mean and m2 differ by rounding.

    Infinite values are counted, and take part in nothing else. Integers above 2**53 are rounded to float64.

    Attributes:
        count: Finite values.
        nulls: Nulls.
        nan: Values that are not a number.
        infinities: Values below and above all finite ones.
        min: Smallest finite value; infinity if there is none.
        max: Largest finite value; minus infinity if there is none.
        mean: Of the finite values.
        m2: Sum of their squared differences from the mean.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque (1979), Updating formulae and a pairwise algorithm for computing
    sample variances; the bins are those of HdrHistogram, taken from the bits of a float64.
    """

    def __init__(self) -> None:
        self.count = self.nulls = self.nan = 0
        self.infinities = (0, 0)
        self.min, self.max = math.inf, -math.inf
        self.mean = self.m2 = 0.0
        self._exact = True
        self._points: np.ndarray = np.empty(0)  # ascending: values (float64) if exact, else bins (int64)
        self._counts: np.ndarray = np.empty(0, np.int64)

    def update(self, values: pl.Series | np.ndarray) -> None:
        """Add values; a series of times counts in its physical unit."""
        if isinstance(values, pl.Series):
            self.nulls += values.null_count()
            values = values.to_physical().drop_nulls()
            if (found := _few_integers(values)) is not None:
                self._add_few(*found)
                return
            values = values.cast(pl.Float64).to_numpy()
        values = np.asarray(values, np.float64).reshape(-1)
        finite = np.isfinite(values)
        if not finite.all():
            odd = values[~finite]
            self.nan += int(np.isnan(odd).sum())
            below, above = self.infinities
            self.infinities = (below + int((odd == -np.inf).sum()), above + int((odd == np.inf).sum()))
            values = values[finite]
        if not len(values):
            return
        if self._exact:
            if (found := _few_values(values)) is not None:
                self._add_few(*found)
                return
            self._to_bins()
        for start in range(0, len(values), _BLOCK):
            self._add_moments(values[start : start + _BLOCK])
        self._add_counts(*_bin_counts(values))

    def update_counts(self, counts: Mapping[float, int]) -> None:
        """Add values by how often each occurs."""
        found = {value: count for value, count in counts.items() if count}
        self._add_few(np.array(list(found), np.float64), np.array(list(found.values()), np.int64))

    def update_moments(self, values: pl.Series) -> None:
        """Add finite values to count, mean, m2 and ends alone: quantiles do not hold any more."""
        numbers = values.to_physical().drop_nulls().cast(pl.Float64).to_numpy()
        if not np.isfinite(numbers).all():
            numbers = numbers[np.isfinite(numbers)]
        for start in range(0, len(numbers), _BLOCK):
            self._add_moments(numbers[start : start + _BLOCK])

    def merge(self, other: NumericSketch) -> None:
        """Add what another sketch has seen."""
        self.nulls += other.nulls
        self.nan += other.nan
        self.infinities = (self.infinities[0] + other.infinities[0], self.infinities[1] + other.infinities[1])
        self._merge_moments(other.count, other.mean, other.m2, other.min, other.max)
        points, counts = other._points, other._counts
        if self._exact and not other._exact:
            self._to_bins()
        elif other._exact and not self._exact:
            points = _bins_of(points)
        self._add_counts(points, counts)

    @property
    def variance(self) -> float:
        """Of the sample (n - 1); NaN for fewer than two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of the sample (n - 1); NaN for fewer than two values."""
        return math.sqrt(self.variance) if self.count > 1 else math.nan

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The different values in ascending order and how often each occurs; None if there are too many."""
        return (self._points, self._counts) if self._exact else None

    def quantile(self, q: float | Sequence[float], between: str = "linear") -> np.ndarray:
        """The quantiles, float64; NaN without values.

        Args:
            q: In [0, 1].
            between: What is taken between two neighbours, as NumPy names it: ``linear``, ``lower``, ``higher``,
                ``midpoint`` or ``nearest``.
        """
        position = np.asarray(q, np.float64) * (self.count - 1)
        if not self.count:
            return np.full_like(position, np.nan)
        lower = np.floor(position)
        nearest = np.round(position) - lower
        shares = {"linear": position - lower, "lower": 0.0, "higher": 1.0, "midpoint": 0.5, "nearest": nearest}
        low, high, share = self._at(lower), self._at(np.ceil(position)), shares[between]
        return np.where(share == 1, high, low + (high - low) * share)  # low + (high - low) need not be high

    def count_below(self, x: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """How many finite values are smaller than each `x`; within a bin they are taken as evenly spread."""
        x = np.asarray(x, np.float64)
        before = np.concatenate([[0.0], np.cumsum(self._counts)])
        if self._exact:
            return before[np.searchsorted(self._points, x)]
        index = np.searchsorted(self._points, keys := _bins_of(x))
        inside = np.take(np.append(self._points, np.iinfo(np.int64).max), index) == keys
        low, high = _edges_of(keys)
        share = np.clip((x - low) / np.where(high > low, high - low, 1), 0, 1)
        counts = np.take(np.append(self._counts, 0), index)
        below = before[index] + np.where(inside, counts * share, 0)
        result: np.ndarray = np.where(x <= self.min, 0, np.where(x > self.max, self.count, below))
        return result

    def filled(self, value: float) -> NumericSketch:
        """The sketch of the values with `value` in the place of nulls and of what is not a number."""
        made = self._copy()
        made.nulls = made.nan = 0
        made.update_counts({float(value): self.nulls + self.nan})
        return made

    def clipped(self, low: float, high: float) -> NumericSketch:
        """The sketch of the values clipped to [low, high].

        Its mean and m2 are NaN if the counts do not tell them: when values lay outside, and not each is counted by
        itself. `with_moments` gives them.
        """
        made = self._copy()
        ends = np.array([low, high], np.float64)
        outside = np.array(self.infinities)
        made.infinities = (0, 0)
        made.count += int(outside.sum())
        if not made.count or (not outside.any() and low <= self.min and self.max <= high):
            return made
        bounds = ends if self._exact else _bins_of(ends)
        points = np.concatenate([np.clip(self._points, *bounds), bounds])
        made._points, made._counts = _summed(points, np.concatenate([self._counts, outside]))
        filled = made._counts > 0
        made._points, made._counts = made._points[filled], made._counts[filled]
        made.min, made.max = (float(x) for x in np.clip([self.min, self.max], low, high))
        made.mean, made.m2 = _moments_of(made._points, made._counts) if self._exact else (math.nan, math.nan)
        return made

    def with_moments(self, mean: float, m2: float) -> NumericSketch:
        """The sketch with another mean and m2."""
        made = self._copy()
        made.mean, made.m2 = mean, m2
        return made

    def _copy(self) -> NumericSketch:
        made = NumericSketch()
        made.__dict__.update(self.__dict__)  # arrays are replaced, never written to
        return made

    def to_dict(self) -> dict[str, Any]:
        """The sketch as JSON values, for `from_dict`."""
        state = {name: getattr(self, name) for name in _SCALARS}
        state |= {"min": self.min, "max": self.max} if self.count else {"min": None, "max": None}
        return state | {
            "infinities": list(self.infinities),
            "exact": self._exact,
            "points": self._points.tolist(),
            "counts": self._counts.tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> NumericSketch:
        """The sketch that `to_dict` described."""
        sketch = cls()
        for name in _SCALARS:
            setattr(sketch, name, state[name])
        if sketch.count:
            sketch.min, sketch.max = state["min"], state["max"]
        sketch.infinities = (state["infinities"][0], state["infinities"][1])
        sketch._exact = state["exact"]
        sketch._points = np.array(state["points"], np.float64 if sketch._exact else np.int64)
        sketch._counts = np.array(state["counts"], np.int64)
        return sketch

    def _add_moments(self, values: np.ndarray) -> None:
        mean = float(values.mean())
        spread = values - mean
        m2 = float(np.square(spread, out=spread).sum())
        self._merge_moments(len(values), mean, m2, float(values.min()), float(values.max()))

    def _add_few(self, points: np.ndarray, counts: np.ndarray) -> None:
        """Add values of which there are few different ones."""
        if not len(points):
            return
        mean, m2 = _moments_of(points, counts)
        self._merge_moments(int(counts.sum()), mean, m2, float(points.min()), float(points.max()))
        self._add_counts(points if self._exact else _bins_of(points), counts)

    def _merge_moments(self, count: int, mean: float, m2: float, low: float, high: float) -> None:
        if not count:
            return
        total, gap = self.count + count, mean - self.mean
        self.m2 += m2 + gap * gap * (self.count / total * count)
        self.mean += gap * (count / total)
        self.count, self.min, self.max = total, min(self.min, low), max(self.max, high)

    def _add_counts(self, points: np.ndarray, counts: np.ndarray) -> None:
        self._points, self._counts = _summed(
            np.concatenate([self._points, points]), np.concatenate([self._counts, counts])
        )
        if self._exact and len(self._points) > EXACT_VALUES:
            self._to_bins()

    def _to_bins(self) -> None:
        self._exact = False
        self._points, self._counts = _summed(_bins_of(self._points), self._counts)

    def _at(self, rank: np.ndarray) -> np.ndarray:
        """The values at whole ranks, counted from 0 in ascending order."""
        ends = np.cumsum(self._counts)
        index = np.minimum(np.searchsorted(ends, rank, side="right"), len(ends) - 1)
        if self._exact:
            return self._points[index]
        low, high = _edges_of(self._points[index])
        share = (rank - (ends - self._counts)[index] + 0.5) / self._counts[index]
        result: np.ndarray = np.clip(low + (high - low) * share, self.min, self.max)
        return result


_SCALARS = ("count", "nulls", "nan", "mean", "m2")


def _few_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The different values and their counts; None if there are more than `EXACT_VALUES`."""
    if len(np.unique(values[:_PROBE])) > EXACT_VALUES:
        return None
    found = pl.Series("value", values).value_counts()
    if len(found) > EXACT_VALUES:
        return None
    return found["value"].to_numpy() + 0.0, found["count"].to_numpy().astype(np.int64)  # + 0.0: -0.0 is 0.0


def _few_integers(values: pl.Series) -> tuple[np.ndarray, np.ndarray] | None:
    """As `_few_values`, in an eighth of the time, for truth values and integers that lie close together."""
    if values.dtype == pl.Boolean:
        values = values.cast(pl.UInt8)
    if not len(values) or not values.dtype.is_integer():
        return None
    low, high = (int(end) for end in values.to_frame("x").select(low=pl.first().min(), high=pl.first().max()).row(0))
    if high - low >= _PROBE or not -(2**63) <= low <= high < 2**63:
        return None
    counts = np.bincount(values.cast(pl.Int64).to_numpy() - low)
    filled = np.flatnonzero(counts)
    return ((filled + low).astype(np.float64), counts[filled]) if len(filled) <= EXACT_VALUES else None


def _moments_of(points: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Mean, and sum of squared differences from it."""
    mean = float((points * counts).sum() / counts.sum())
    return mean, float((np.square(points - mean) * counts).sum())


def _bin_counts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bins of values that are finite, in no order, and their counts."""
    if zeros := len(values) - np.count_nonzero(values):  # between 0 and the next bin lie half a million that are empty
        values = values[values != 0]
    # Bits without the sign, which goes last: the bins of both signs side by side in one short range.
    keys = np.empty(len(values), np.int64)
    for start in range(0, len(values), _BLOCK):
        bits = values[start : start + _BLOCK].view(np.int64)
        block = keys[start : start + _BLOCK]
        np.bitwise_and(bits, _MAGNITUDE, out=block)
        np.right_shift(block, _SHIFT, out=block)
        np.left_shift(block, 1, out=block)
        np.bitwise_or(block, bits < 0, out=block)
    low = int(keys.min()) if len(keys) else 0
    counts = np.bincount(keys - low)
    filled = np.flatnonzero(counts)
    magnitude, negative = np.divmod(filled + low, 2)
    bins, counts = np.where(negative, ~magnitude, magnitude), counts[filled]
    return (np.append(bins, 0), np.append(counts, zeros)) if zeros else (bins, counts)


def _bins_of(values: np.ndarray) -> np.ndarray:
    """int64 in the order of the values: sign, exponent and leading bits of the mantissa."""
    bits = np.ascontiguousarray(values + 0.0).view(np.int64)  # + 0.0: -0.0 is 0.0
    return np.asarray((bits ^ ((bits >> 63) & _MAGNITUDE)) >> _SHIFT)


def _edges_of(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper end of each bin."""
    return _least_of(keys), _least_of(keys + 1)


def _least_of(keys: np.ndarray) -> np.ndarray:
    bits = keys << _SHIFT
    return np.asarray(bits ^ ((bits >> 63) & _MAGNITUDE)).view(np.float64)


def _summed(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points in ascending order, each once, with the sums of their counts."""
    if not len(points):
        return points, counts
    order = np.argsort(points, kind="stable")
    points, counts = points[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], points[1:] != points[:-1]]))
    return points[starts], np.add.reduceat(counts, starts)
