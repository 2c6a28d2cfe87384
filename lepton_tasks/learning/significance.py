"""McNemar's test: whether two models differ on the same rows by more than chance."""

from __future__ import annotations

import math

import numpy as np

_EXACT_UP_TO = 1000


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """McNemar's two-sided test on paired predictions.

    Args:
        first: Rows the first model predicted correctly, bool [N].
        second: Likewise of the second model.

    Returns:
        ``only_first`` and ``only_second``: rows that only one predicted correctly; ``p_value``: probability of a
        difference at least as large if both are equally good. Exact up to 1,000 such rows, by the normal approximation
        with continuity correction above.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    n, least = only_first + only_second, min(only_first, only_second)
    if n <= _EXACT_UP_TO:
        tail = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
        p_value = min(1.0, 2 * tail)
    else:
        z = max(0, n - 2 * least - 1) / math.sqrt(n)
        p_value = math.erfc(z / math.sqrt(2))
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}
