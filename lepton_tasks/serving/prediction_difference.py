"""Largest numeric difference between two predictions."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

_PNG = "iVBORw0KGgo"  # PNG signature in base64


def difference(answer: Any, expected: Any) -> float:
    """The largest difference between corresponding numbers of two JSON values; infinite if they differ otherwise.

    Differences are relative to expected numbers above 1. PNG files in base64 are compared by pixel in [0, 1], where a
    difference of one level counts as rounding.
    """
    if isinstance(answer, int | float) and isinstance(expected, float):
        apart = 0.0 if answer == expected else abs(answer - expected) / max(1.0, abs(expected))
        return math.inf if math.isnan(apart) else apart  # `max` could drop a NaN
    if isinstance(answer, dict) and isinstance(expected, dict) and answer.keys() == expected.keys():
        return max((difference(answer[key], expected[key]) for key in answer), default=0.0)
    if isinstance(answer, list) and isinstance(expected, list) and len(answer) == len(expected):
        return max(map(difference, answer, expected), default=0.0)
    if isinstance(answer, str) and isinstance(expected, str) and answer != expected and answer.startswith(_PNG):
        return _image_difference(answer, expected)
    return 0.0 if answer == expected else math.inf


def _image_difference(answer: str, expected: str) -> float:
    try:
        first, second = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int) for text in (answer, expected)
        )
    except (OSError, ValueError):  # not an image
        return math.inf
    if first.shape != second.shape:
        return math.inf
    return max(0, int(np.abs(first - second).max()) - 1) / 255
