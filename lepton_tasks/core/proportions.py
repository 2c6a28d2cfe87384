"""Statistics of proportions and distributions: confidence intervals, tests, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence

_EXACT_UP_TO = 1000

Z95 = 1.96
"""Standard deviations on both sides of a normal mean that hold 95 %."""


def wilson(share: float, rows: int, *, z: float = Z95) -> tuple[float, float]:
    """The interval of a share seen on `rows` rows, 95 % by default.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2)) / (1 + z**2 / rows)
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(first: tuple[int, int], second: tuple[int, int], *, z: float = Z95) -> tuple[float, float]:
    """The interval of the second share less the first, 95 % by default; good for few hits, too.

    Args:
        first: Hits and rows, rows > 0.
        second: Likewise.
        z: Standard deviations.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    p, q = first[0] / first[1], second[0] / second[1]
    (p_low, p_high), (q_low, q_high) = wilson(p, first[1], z=z), wilson(q, second[1], z=z)
    below = math.sqrt((q - q_low) ** 2 + (p_high - p) ** 2)
    above = math.sqrt((q_high - q) ** 2 + (p - p_low) ** 2)
    return q - p - below, q - p + above


def two_proportions(first: tuple[int, int], second: tuple[int, int]) -> float:
    """How likely a difference at least as large is if both shares are one: the pooled z-test, two-sided.

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


def more_by_chance(first: tuple[int, int], second: tuple[int, int]) -> float:
    """How likely the second has at least as many of all hits if both shares are one: Fisher's exact test, one-sided.

    By the normal approximation with continuity correction above 1,000 hits.

    Args:
        first: Hits and rows; no rows stand for a share of nothing known, so that the second's hits are no surprise.
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


def stability(first: Sequence[int], second: Sequence[int]) -> float:
    """The population stability index of two counts over the same bins; half a row is added to each bin.

    Below 0.1 is no change, above 0.25 a large one, by the custom of credit scoring.

    Source: Siddiqi, "Credit risk scorecards", 2006.
    """
    bins = len(first)
    n, m = sum(first) + bins / 2, sum(second) + bins / 2
    shares = (((a + 0.5) / n, (b + 0.5) / m) for a, b in zip(first, second, strict=True))
    return sum((q - p) * math.log(q / p) for p, q in shares)


def stability_by_chance(bins: int, first: int, second: int, *, z: float) -> float:
    """What the stability index of two samples of one distribution stays below, but for one normal tail beyond `z`.

    Args:
        bins: Bins, at least 2.
        first: Rows of the first sample.
        second: Rows of the second.
        z: Standard deviations.

    Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020: it is distributed as
    chi-square with bins - 1 degrees of freedom times 1/first + 1/second; its quantile by Wilson and Hilferty, "The
    distribution of chi-square", 1931.
    """
    degrees = bins - 1
    quantile = degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3
    return quantile * (1 / first + 1 / second)


def pooled(first: Sequence[int], second: Sequence[int], *, least: float = 5.0) -> tuple[list[int], list[int]]:
    """The same counts with those bins joined into one in which a sample is expected to have fewer than `least` rows.

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


def chi_square(first: Sequence[int], second: Sequence[int]) -> float:
    """How likely two counts over the same bins differ at least as much if both come from one distribution.

    Bins with few rows are joined (see `pooled`); the tail by Wilson and Hilferty, 1931, off by less than 0.01.

    Source: Pearson, "On the criterion ...", 1900.
    """
    a, b = pooled(first, second)
    if len(a) < 2 or not sum(a) or not sum(b):
        return 1.0
    n, m = sum(a), sum(b)
    statistic = 0.0
    for x, y in zip(a, b, strict=True):
        for seen, rows in ((x, n), (y, m)):
            expected = (x + y) * rows / (n + m)
            statistic += (seen - expected) ** 2 / expected
    degrees = len(a) - 1
    if statistic == 0:
        return 1.0
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return math.erfc(z / math.sqrt(2)) / 2
