"""Output codec of recommenders: indices and scores -> item names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ItemsCodec:
    """Recommended items by name.

    Args:
        items: Item names; the first has index 1.
        titles: Display names in the same order; empty if identical.
    """

    items: list[str]
    titles: list[str] = dataclasses.field(default_factory=list)

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """Names and scores of one row of ``items`` (int [N, K]) and ``scores`` (float32 [N, K]), best first.

        Items without a finite score are omitted; they occur if the user has interacted with nearly all items.
        """
        pairs = zip(outputs["items"][row].tolist(), outputs["scores"][row].tolist(), strict=True)
        return {"items": [{**self._named(n - 1), "score": score} for n, score in pairs if np.isfinite(score)]}

    def _named(self, index: int) -> dict[str, str]:
        title = {"title": self.titles[index]} if self.titles else {}
        return {"item": self.items[index], **title}
