"""What recommenders answer -> items by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ItemsCodec:
    """The output codec of recommendations.

    Args:
        items: Names of the items, in the order of their numbers, which count from 1.
    """

    items: list[str]

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """Names and scores of one row of ``items`` (int [N, K]) and ``scores`` (float32 [N, K]), the best first.

        What has no finite score, because the user has touched nearly everything, is left out.
        """
        pairs = zip(outputs["items"][row].tolist(), outputs["scores"][row].tolist(), strict=True)
        return {"items": [{"item": self.items[n - 1], "score": score} for n, score in pairs if np.isfinite(score)]}
