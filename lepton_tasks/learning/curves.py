"""AUC, ROC and calibration of scores. NumPy only."""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive row scores higher than a negative one; ties count half, NaN against it.

    Args:
        scores: float [N].
        positive: bool [N].

    Returns:
        In [0, 1]; NaN if all rows are of one class.

    Source: the rank-sum statistic of Mann and Whitney, 1947; Hanley and McNeil, "The meaning and use of the area under
    a receiver operating characteristic (ROC) curve", 1982.
    """
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    scores = np.where(np.isnan(scores), np.where(positive, -np.inf, np.inf), scores)
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2  # the mean rank of each group of equal scores, from 1
    above = ranks[group][positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


def roc(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at each score threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last row of each score
    hits = np.concatenate([[0], np.cumsum(positive[order])[ends]])
    others = np.concatenate([[0], ends + 1]) - hits
    return others / max(1, int((~positive).sum())), hits / max(1, int(positive.sum()))


def calibration(probabilities: np.ndarray, positive: np.ndarray, *, bins: int = 10) -> np.ndarray:
    """Mean probability, share of positive rows and row count of each non-empty bin of equal width, [B, 3].

    Args:
        probabilities: float [N] in [0, 1].
        positive: bool [N].
        bins: Number of equal parts of [0, 1].
    """
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    sums = np.stack([np.bincount(place, weights=w, minlength=bins) for w in (probabilities, positive)], axis=1)
    used = rows > 0
    found: np.ndarray = np.column_stack([sums[used] / rows[used, np.newaxis], rows[used]])
    return found


def calibration_error(probabilities: np.ndarray, positive: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error: |mean probability - share of positive rows| per bin, averaged over rows.

    Source: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015.
    """
    said, seen, rows = calibration(probabilities, positive, bins=bins).T
    return float(np.average(np.abs(said - seen), weights=rows))
