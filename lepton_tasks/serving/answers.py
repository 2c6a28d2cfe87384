"""How far two answers of a model are apart."""

from __future__ import annotations

import math
from typing import Any


def difference(answer: Any, expected: Any) -> float:
    """The largest difference of two numbers at the same place of two JSON values; infinite if they differ otherwise.

    It is relative to the expected number where that is larger than 1.
    """
    if isinstance(answer, int | float) and isinstance(expected, float):
        return abs(answer - expected) / max(1.0, abs(expected))
    if isinstance(answer, dict) and isinstance(expected, dict) and answer.keys() == expected.keys():
        return max((difference(answer[key], expected[key]) for key in answer), default=0.0)
    if isinstance(answer, list) and isinstance(expected, list) and len(answer) == len(expected):
        return max(map(difference, answer, expected), default=0.0)
    return 0.0 if answer == expected else math.inf
