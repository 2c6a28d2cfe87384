"""Mergeable counters of a column's values."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

SMALLEST = 16_384
"""Hashes kept to estimate the number of distinct values: a standard error of 1 / sqrt(16382), 0.8 %."""
_BUCKETS = 1 << 16
_PROBE = 4096  # values sampled to decide whether most are distinct


class DistinctCounter:
    """Number of distinct values, estimated from the smallest hashes; exact below `SMALLEST`.

    Source: Z. Bar-Yossef et al. (2002), Counting distinct elements in a data stream (k smallest hashes).
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.uint64)  # the smallest distinct ones, ascending

    def update(self, values: pl.Series) -> np.ndarray:
        """Add values without nulls; returns their hashes."""
        hashes = values.hash(seed=0).to_numpy()
        self._keep_smallest(hashes)
        return hashes

    def merge(self, other: DistinctCounter) -> None:
        """Add the values of another counter."""
        self._keep_smallest(other._hashes)

    @property
    def exact(self) -> bool:
        """Whether the count is exact."""
        return len(self._hashes) < SMALLEST

    @property
    def count(self) -> int:
        """Number of distinct values."""
        if self.exact:
            return len(self._hashes)
        return round((SMALLEST - 1) * 2.0**64 / float(self._hashes[-1]))

    def _keep_smallest(self, hashes: np.ndarray) -> None:
        likely = 1.25 * SMALLEST / max(1, len(hashes))
        if likely < 0.5:  # sort fewer: if enough hashes are below the limit, none above it is among the smallest
            low = _sorted_distinct(hashes[hashes < np.uint64(likely * 2.0**64)])
            hashes = low if len(low) >= SMALLEST else hashes
        self._hashes = _sorted_distinct(np.concatenate([self._hashes, hashes]))[:SMALLEST]


def _sorted_distinct(hashes: np.ndarray) -> np.ndarray:
    return pl.Series(hashes).unique().sort().to_numpy()


class CategoryCounter:
    """Counts of each value: exact up to `bound` distinct values, with a bounded undercount beyond.

    With at most `bound` distinct values, all counts are exact and `undercount` is 0. Beyond, the most frequent values
    are kept: the true count of a value is between its count here and that plus `undercount`, which is at most
    ``2 * rows / bound``; the number of distinct values is estimated by `DistinctCounter`.

    Args:
        bound: Maximum number of values counted individually.

    Attributes:
        count: Number of values.
        nulls: Number of nulls.
        undercount: Maximum error of a count.

    Source: J. Misra, D. Gries (1982), Finding repeated elements; P. Agarwal et al. (2012), Mergeable summaries.
    """

    def __init__(self, bound: int = 10_000) -> None:
        self.bound = bound
        self.count = self.nulls = self.undercount = 0
        self._counts: pl.DataFrame | None = None  # value, count
        self._distinct = DistinctCounter()

    def update(self, values: pl.Series) -> None:
        """Add values of any hashable type; categoricals count as text."""
        if isinstance(values.dtype, pl.Categorical | pl.Enum):
            values = values.cast(pl.String)
        self.nulls += values.null_count()
        values = values.drop_nulls().rename("value")
        self.count += len(values)
        if values[:_PROBE].n_unique() <= _PROBE // 2:
            counts = values.value_counts()
            self._distinct.update(counts["value"])  # hash each distinct value once: a third of the time
            self._add(counts.cast({"count": pl.Int64}))
            return
        hashes = self._distinct.update(values)
        if self._distinct.count > 2 * self.bound:
            # Counting rare values would take 10 times the rest, only to be discarded.
            rare = len(values) // self.bound
            buckets = (hashes & np.uint64(_BUCKETS - 1)).astype(np.int64)
            values = values.filter(pl.Series((np.bincount(buckets, minlength=_BUCKETS) > rare)[buckets]))
            self.undercount += rare
        self._add(values.value_counts().cast({"count": pl.Int64}))

    def update_counts(self, values: pl.Series, counts: np.ndarray) -> None:
        """Add distinct values with their counts."""
        found = pl.DataFrame([values.rename("value"), pl.Series("count", counts, pl.Int64)]).filter(pl.col("count") > 0)
        self.count += int(counts.sum())
        self._distinct.update(found["value"])
        self._add(found)

    def merge(self, other: CategoryCounter) -> None:
        """Add the values of another counter."""
        self.count += other.count
        self.nulls += other.nulls
        self.undercount += other.undercount
        self._distinct.merge(other._distinct)
        if other._counts is not None:
            self._add(other._counts)

    @property
    def exact(self) -> bool:
        """Whether all counts are exact."""
        return self.undercount == 0

    @property
    def distinct(self) -> int:
        """Number of distinct values; an estimate unless `exact`."""
        counted = 0 if self._counts is None else len(self._counts)
        return counted if self.exact else min(self.count, max(counted, self._distinct.count))

    def top(self, n: int | None = None) -> list[tuple[Any, int]]:
        """The `n` most frequent values (None for all kept ones) with counts, by descending count, then value."""
        if self._counts is None:
            return []
        order = self._counts.sort(["count", "value"], descending=[True, False])
        return list((order if n is None else order.head(n)).iter_rows())

    def values(self) -> pl.Series:
        """The kept values in ascending order."""
        return pl.Series("value", []) if self._counts is None else self._counts["value"].sort()

    def filled(self, value: Any) -> CategoryCounter:
        """The counter after filling nulls with `value`."""
        made = CategoryCounter(self.bound)
        made.__dict__.update(self.__dict__)
        made._distinct = DistinctCounter()
        made._distinct.merge(self._distinct)
        made.nulls = 0
        if self.nulls:
            made.count += self.nulls
            found = pl.DataFrame({"value": [value], "count": [self.nulls]}, schema_overrides={"count": pl.Int64})
            if self._counts is not None:
                found = found.cast({"value": self._counts["value"].dtype})
            made._distinct.update(found["value"])
            made._add(found)
        return made

    def to_dict(self, n: int | None = None) -> dict[str, Any]:
        """Counts and the `n` most frequent values as JSON values (times as text)."""
        plain = (str, int, float, bool)
        return {
            "count": self.count,
            "nulls": self.nulls,
            "distinct": self.distinct,
            "exact": self.exact,
            "undercount": self.undercount,
            "top": [[value if isinstance(value, plain) else str(value), count] for value, count in self.top(n)],
        }

    def _add(self, counts: pl.DataFrame) -> None:
        if self._counts is not None:
            both = pl.concat([self._counts, counts])
            counts = both.group_by("value").agg(pl.col("count").sum())
        if len(counts) > self.bound:
            cut = int(counts["count"].top_k(self.bound + 1).to_numpy()[-1])
            self.undercount += cut
            counts = counts.with_columns(pl.col("count") - cut).filter(pl.col("count") > 0)
        self._counts = counts
