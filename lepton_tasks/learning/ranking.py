"""Ranking metrics: position of the correct item among candidates."""

from __future__ import annotations

import numpy as np

from lepton_tasks.learning.recommendation_plots import bins_of

CANDIDATES = 100
"""Negatives per evaluation row."""

TOP = 10
"""Ranks that count as a hit."""


def ranks(scores: np.ndarray) -> np.ndarray:
    """0-based rank of the first candidate, int [N], from scores [N, C]; ties and NaN count against it."""
    return np.asarray((~(scores[:, 1:] < scores[:, :1])).sum(axis=1))


def parts_of(targets: np.ndarray, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by user activity and by popularity of the correct item, bool [N] each.

    Args:
        targets: int [N, 2], the user's number of items, and the index of the correct item.
        popularity: Interactions of each item in training.
    """
    count = np.concatenate(([0], popularity))[targets[:, 1]]
    users = {f"users with {label} items": rows for label, rows in bins_of(targets[:, 0]).items()}
    return users | {f"items with {label} interactions": rows for label, rows in bins_of(count).items()}
