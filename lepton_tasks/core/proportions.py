"""Statistics of proportions and histograms: confidence intervals, tests, stability index."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EXACT_UP_TO = 1000

Z95 = 1.96
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson(share: float, rows: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson confidence interval of a proportion observed on `rows` rows, 95 % by default.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2)) / (1 + z**2 / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(first: tuple[int, int], second: tuple[int, int], *, z: float = Z95) -> tuple[float, float]:
    """Newcombe confidence interval of the second proportion minus the first, 95 % by default; valid for small counts.

    Args:
        first: Hits and rows, rows > 0.
        second: Likewise.
        z: Normal quantile.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    p, q = first[0] / first[1], second[0] / second[1]
    (p_low, p_high), (q_low, q_high) = wilson(p, first[1], z=z), wilson(q, second[1], z=z)
    below = math.sqrt((q - q_low) ** 2 + (p_high - p) ** 2)
    above = math.sqrt((q_high - q) ** 2 + (p - p_low) ** 2)
    return q - p - below, q - p + above


def two_proportion_p_value(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p-value of the pooled z-test for equal proportions.

    Args:
        first: Hits and rows, rows > 0.
        second: Likewise.

    Source: Agresti, "Categorical data analysis", 3rd edition, 2013, section 3.2 (the score test).
    """
    pooled = (first[0] + second[0]) / (first[1] + second[1])
    spread = math.sqrt(pooled * (1 - pooled) * (1 / first[1] + 1 / second[1]))
    if spread == 0:
        return 1.0
    z = (second[0] / second[1] - first[0] / first[1]) / spread
    return math.erfc(abs(z) / math.sqrt(2))


def fisher_p_value(first: tuple[int, int], second: tuple[int, int]) -> float:
    """One-sided p-value of Fisher's exact test against a larger second proportion.

    Above 1,000 hits by the normal approximation with continuity correction.

    Args:
        first: Hits and rows; 0 rows mean that nothing is known, so the p-value is 1.
        second: Hits and rows.

    Source: Fisher, "Statistical methods for research workers", 1925, section 21.02; hypergeometric tail.
    """
    hits, rows, mine = first[0] + second[0], first[1] + second[1], second[1]
    if hits > _EXACT_UP_TO:
        mean = hits * mine / rows
        variance = mean * (1 - hits / rows) * (rows - mine) / max(1, rows - 1)
        return math.erfc((second[0] - 0.5 - mean) / math.sqrt(2 * variance)) / 2 if variance > 0 else 1.0
    whole = _log_choose(rows, hits)
    tail = range(second[0], min(hits, mine) + 1)
    ways = (_log_choose(mine, k) + _log_choose(rows - mine, hits - k) - whole for k in tail if hits - k <= rows - mine)
    return min(1.0, sum(map(math.exp, ways)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def population_stability_index(first: Sequence[int], second: Sequence[int]) -> float:
    """Population stability index of two histograms over the same bins; half a row is added to each bin.

    By convention in credit scoring, below 0.1 is no change and above 0.25 a large one.

    Source: Siddiqi, "Credit risk scorecards", 2006.
    """
    bins = len(first)
    n, m = sum(first) + bins / 2, sum(second) + bins / 2
    shares = (((a + 0.5) / n, (b + 0.5) / m) for a, b in zip(first, second, strict=True))
    return sum((q - p) * math.log(q / p) for p, q in shares)


def stability_index_bound(bins: int, first: int, second: int, *, z: float) -> float:
    """Upper quantile of the stability index of two samples of the same distribution.

    Args:
        bins: Number of bins, at least 2.
        first: Rows of the first sample.
        second: Rows of the second.
        z: The quantile, as that of a normal distribution.

    Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020: it is distributed as
    chi-square with bins - 1 degrees of freedom times 1/first + 1/second; its quantile by Wilson and Hilferty, "The
    distribution of chi-square", 1931.
    """
    degrees = bins - 1
    quantile = degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3
    return quantile * (1 / first + 1 / second)


def merge_sparse_bins(
    first: Sequence[int], second: Sequence[int], *, least: float = 5.0
) -> tuple[list[int], list[int]]:
    """Merge all bins in which a sample has an expected count below `least` into one.

    Source: Cochran, "Some methods for strengthening the common chi-square tests", 1954.
    """
    share = min(sum(first), sum(second)) / max(1, sum(first) + sum(second))
    kept: tuple[list[int], list[int]] = ([], [])
    rest = [0, 0]
    for a, b in zip(first, second, strict=True):
        if (a + b) * share >= least:
            kept[0].append(a)
            kept[1].append(b)
        else:
            rest[0] += a
            rest[1] += b
    if sum(rest):
        kept[0].append(rest[0])
        kept[1].append(rest[1])
    return kept


def chi_square_p_value(first: Sequence[int], second: Sequence[int]) -> float:
    """p-value of the chi-square test that two histograms over the same bins come from one distribution.

    Sparse bins are merged. The tail is Wilson and Hilferty's approximation, 1931, with an error below 0.01.

    Source: Pearson, "On the criterion ...", 1900.
    """
    a, b = merge_sparse_bins(first, second)
    if len(a) < 2 or not sum(a) or not sum(b):
        return 1.0
    n, m = sum(a), sum(b)
    statistic = 0.0
    for x, y in zip(a, b, strict=True):
        for observed, rows in ((x, n), (y, m)):
            expected = (x + y) * rows / (n + m)
            statistic += (observed - expected) ** 2 / expected
    degrees = len(a) - 1
    if statistic == 0:
        return 1.0
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return math.erfc(z / math.sqrt(2)) / 2
