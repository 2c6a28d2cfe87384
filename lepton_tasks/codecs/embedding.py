"""Output codec of embedding models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class EmbeddingCodec:
    """Embeddings, compared by cosine similarity."""

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """One row of ``embedding`` (float32 [N, D], unit length)."""
        return {"embedding": [float(value) for value in outputs["embedding"][row]]}
