"""Ranking metrics: position of the correct item among candidates."""

from __future__ import annotations

import numpy as np

from lepton_tasks.learning.recommendation_plots import bins_of

CANDIDATES = 100
"""Items beside the right one that a row of evaluation is asked about."""

TOP = 10
"""Ranks that count as a hit."""


def ranks(scores: np.ndarray) -> np.ndarray:
    """How many candidates are before the first one, int [N], from scores [N, C]; ties and NaN count against it."""
    return np.asarray((~(scores[:, 1:] < scores[:, :1])).sum(axis=1))


def parts_of(targets: np.ndarray, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by activity and by popularity of the right item, bool [N] each.

    Args:
        targets: int [N, 2], how many items the user has touched, and the number of the right one.
        popularity: Interactions of each item in training.
    """
    count = np.concatenate(([0], popularity))[targets[:, 1]]
    users = {f"users with {label} items": rows for label, rows in bins_of(targets[:, 0]).items()}
    return users | {f"items with {label} interactions": rows for label, rows in bins_of(count).items()}
