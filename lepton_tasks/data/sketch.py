"""Mergeable numeric column sketch; the result does not depend on how rows are partitioned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.data.bins import (
    BLOCK,
    EXACT_VALUES,
    bin_counts,
    bins_of,
    count_few_integers,
    count_few_values,
    edges_of,
    merge_points,
    moments_of,
)


class NumericSketch:
    """Count, nulls, moments, extremes and quantiles of numbers, in bounded memory and one pass.

    Counts and extremes are exact. Mean and sum of squares are merged by Chan's formula. Quantiles are exact with at
    most `EXACT_VALUES` distinct values; beyond, values are counted in a log-linear histogram, and the error of a
    quantile is at most one bin width, 0.2 % of its value. The mode and all counts depend only on the values, not on
    the partitioning; mean and m2 may differ by rounding.

    Infinite values are only counted. Integers above 2**53 are rounded to float64.

    Args:
        sums: Whether to keep the sum of each bin, so that `clipped` can derive mean and variance.

    Attributes:
        count: Number of finite values.
        nulls: Number of nulls.
        nan: Number of NaNs.
        infinities: Number of negative and positive infinities.
        min: Smallest finite value; infinity if there is none.
        max: Largest finite value; minus infinity if there is none.
        mean: Mean of the finite values.
        m2: Sum of their squared deviations from the mean.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque (1979), Updating formulae and a pairwise algorithm for computing
    sample variances; the bins are those of HdrHistogram, taken from the bits of a float64.
    """

    def __init__(self, *, sums: bool = False) -> None:
        self.count = self.nulls = self.nan = 0
        self.infinities = (0, 0)
        self.min, self.max = math.inf, -math.inf
        self.mean = self.m2 = 0.0
        self._exact = True
        self._points: np.ndarray = np.empty(0)  # ascending: values (float64) if exact, else bins (int64)
        self._counts: np.ndarray = np.empty(0, np.int64)
        self._sums: np.ndarray | None = np.empty(0) if sums else None  # sum of the values of each point

    def update(self, values: pl.Series | np.ndarray) -> None:
        """Add values; times in their physical unit."""
        if isinstance(values, pl.Series):
            self.nulls += values.null_count()
            values = _as_numbers(values)
            if (found := count_few_integers(values)) is not None:
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
            if (found := count_few_values(values)) is not None:
                self._add_few(*found)
                return
            self._to_bins()
        for start in range(0, len(values), BLOCK):
            self._add_moments(values[start : start + BLOCK])
        self._add_counts(*bin_counts(values, sums=self._sums is not None))

    def update_counts(self, counts: Mapping[float, int]) -> None:
        """Add distinct values with their counts."""
        found = {value: count for value, count in counts.items() if count}
        self._add_few(np.array(list(found), np.float64), np.array(list(found.values()), np.int64))

    def update_moments(self, values: pl.Series) -> None:
        """Add finite values to count, mean, m2, min and max only; quantiles become invalid."""
        numbers = _as_numbers(values).cast(pl.Float64).to_numpy()
        if not np.isfinite(numbers).all():
            numbers = numbers[np.isfinite(numbers)]
        for start in range(0, len(numbers), BLOCK):
            self._add_moments(numbers[start : start + BLOCK])

    def merge(self, other: NumericSketch) -> None:
        """Add the values of another sketch."""
        self.nulls += other.nulls
        self.nan += other.nan
        self.infinities = (self.infinities[0] + other.infinities[0], self.infinities[1] + other.infinities[1])
        self._merge_moments(other.count, other.mean, other.m2, other.min, other.max)
        points = other._points
        if self._exact and not other._exact:
            self._to_bins()
        elif other._exact and not self._exact:
            points = bins_of(points)
        if other._sums is None and len(points):
            self._sums = None
        self._add_counts(points, other._counts, other._sums)

    @property
    def variance(self) -> float:
        """Sample variance (n - 1); NaN for fewer than two values."""
        return self.m2 / (self.count - 1) if self.count > 1 else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation (n - 1); NaN for fewer than two values."""
        return math.sqrt(self.variance) if self.count > 1 else math.nan

    @property
    def values(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The distinct values in ascending order and their counts; None if there are too many."""
        return (self._points, self._counts) if self._exact else None

    def quantile(self, q: float | Sequence[float], between: str = "linear") -> np.ndarray:
        """Quantiles, float64; NaN without values.

        Args:
            q: In [0, 1].
            between: Interpolation as in NumPy: ``linear``, ``lower``, ``higher``, ``midpoint`` or ``nearest``.
        """
        position = np.asarray(q, np.float64) * (self.count - 1)
        if not self.count:
            return np.full_like(position, np.nan)
        lower = np.floor(position)
        nearest = np.round(position) - lower
        shares = {"linear": position - lower, "lower": 0.0, "higher": 1.0, "midpoint": 0.5, "nearest": nearest}
        low, high, share = self._at(lower), self._at(np.ceil(position)), shares[between]
        return np.where(share == 1, high, low + (high - low) * share)  # low + (high - low) may differ from high

    def count_below(self, x: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Number of finite values below each `x`; assumes a uniform distribution within a bin."""
        x = np.asarray(x, np.float64)
        before = np.concatenate([[0.0], np.cumsum(self._counts)])
        if self._exact:
            return before[np.searchsorted(self._points, x)]
        index = np.searchsorted(self._points, keys := bins_of(x))
        inside = np.take(np.append(self._points, np.iinfo(np.int64).max), index) == keys
        low, high = edges_of(keys)
        share = np.clip((x - low) / np.where(high > low, high - low, 1), 0, 1)
        counts = np.take(np.append(self._counts, 0), index)
        below = before[index] + np.where(inside, counts * share, 0)
        result: np.ndarray = np.where(x <= self.min, 0, np.where(x > self.max, self.count, below))
        return result

    def filled(self, value: float) -> NumericSketch:
        """The sketch after filling nulls and NaN with `value`."""
        made = self._copy()
        made.nulls = made.nan = 0
        made.update_counts({float(value): self.nulls + self.nan})
        return made

    def clipped(self, low: float, high: float) -> NumericSketch:
        """The sketch after clipping to [low, high].

        If values were outside and the sketch has bins, mean and standard deviation are derived from the bins' sums:
        with an error of the mean below 1e-6 standard deviations, and a relative error of the standard deviation below
        5e-6. They are NaN if that is not possible; then set them by `with_moments`.
        """
        made = self._copy()
        ends = np.array([low, high], np.float64)
        outside = np.array(self.infinities)
        made.infinities = (0, 0)
        made.count += int(outside.sum())
        if not made.count or (not outside.any() and low <= self.min and self.max <= high):
            return made
        bounds = ends if self._exact else bins_of(ends)
        split = int(self._counts[np.isin(self._points, bounds)].sum())
        points = np.concatenate([np.clip(self._points, *bounds), bounds])
        counts = np.concatenate([self._counts, outside])
        sums = None
        if self._sums is not None:
            means = np.concatenate([self._sums / self._counts, ends])
            sums = np.where(points == bounds[0], np.maximum(means, low), np.minimum(means, high)) * counts
            sums = np.where((points > bounds[0]) & (points < bounds[1]), means * counts, sums)
        filled = counts > 0
        made._points, made._counts, made._sums = merge_points(
            points[filled], counts[filled], sums if sums is None else sums[filled]
        )
        here = np.append(np.clip([self.min, self.max] if self.count else [], low, high), ends[outside > 0])
        made.min, made.max = float(here.min()), float(here.max())
        made.mean, made.m2 = moments_of(made._points, made._counts) if self._exact else made._moments_of_bins(split)
        return made

    def _moments_of_bins(self, split: int) -> tuple[float, float]:
        """Mean and m2 from bin sums, inexact for `split` values in boundary bins; NaN if the error may be too large."""
        if self._sums is None:
            return math.nan, math.nan
        mean, between = moments_of(self._sums / self._counts, self._counts)
        widths = np.subtract(*edges_of(self._points)[::-1])
        within = float((self._counts * np.square(widths)).sum()) / 12  # for a uniform distribution in each bin
        m2 = between + within
        error = split * float(widths.max()) / 4  # upper bound, of the sum
        accurate = 3 * within <= 1e-5 * between and error <= 1e-6 * math.sqrt(m2 * self.count)
        return (mean, m2) if accurate else (math.nan, math.nan)

    def with_moments(self, mean: float, m2: float) -> NumericSketch:
        """A copy with another mean and m2."""
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
        """Inverse of `to_dict`."""
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
        """Add a few distinct values with their counts."""
        if not len(points):
            return
        mean, m2 = moments_of(points, counts)
        self._merge_moments(int(counts.sum()), mean, m2, float(points.min()), float(points.max()))
        self._add_counts(points if self._exact else bins_of(points), counts, points * counts)

    def _merge_moments(self, count: int, mean: float, m2: float, low: float, high: float) -> None:
        if not count:
            return
        total, gap = self.count + count, mean - self.mean
        self.m2 += m2 + gap * gap * (self.count / total * count)
        self.mean += gap * (count / total)
        self.count, self.min, self.max = total, min(self.min, low), max(self.max, high)

    def _add_counts(self, points: np.ndarray, counts: np.ndarray, sums: np.ndarray | None = None) -> None:
        both = None if self._sums is None or sums is None else np.concatenate([self._sums, sums])
        self._points, self._counts, self._sums = merge_points(
            np.concatenate([self._points, points]), np.concatenate([self._counts, counts]), both
        )
        if self._exact and len(self._points) > EXACT_VALUES:
            self._to_bins()

    def _to_bins(self) -> None:
        self._exact = False
        self._points, self._counts, self._sums = merge_points(bins_of(self._points), self._counts, self._sums)

    def _at(self, rank: np.ndarray) -> np.ndarray:
        """The values at integer ranks, from 0 in ascending order."""
        ends = np.cumsum(self._counts)
        index = np.minimum(np.searchsorted(ends, rank, side="right"), len(ends) - 1)
        if self._exact:
            return self._points[index]
        low, high = edges_of(self._points[index])
        share = (rank - (ends - self._counts)[index] + 0.5) / self._counts[index]
        result: np.ndarray = np.clip(low + (high - low) * share, self.min, self.max)
        return result


_SCALARS = ("count", "nulls", "nan", "mean", "m2")


def _as_numbers(values: pl.Series) -> pl.Series:
    """Drop nulls; times in their physical unit, decimals as float64 (their physical form is unscaled)."""
    return values.drop_nulls().cast(pl.Float64) if values.dtype.is_decimal() else values.to_physical().drop_nulls()
