"""Verification metrics of embeddings: cosine similarity of all pairs."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic.

    Attributes:
        far: False accept rate (impostor pairs) at each threshold, float [T], ascending.
        accepted: True accept rate (genuine pairs) likewise, float [T], ascending.
        thresholds: float [T], descending; the first is above all similarities.
    """

    far: np.ndarray
    accepted: np.ndarray
    thresholds: np.ndarray

    @property
    def auc(self) -> float:
        """Area under the curve: how often a genuine pair is more similar than an impostor pair; ties count half."""
        return float(np.trapezoid(self.accepted, self.far))

    @property
    def eer(self) -> float:
        """Equal error rate, where the false accept rate equals the false reject rate."""
        gap = self.far - (1 - self.accepted)
        after = int(np.argmax(gap >= 0))
        if after == 0:
            return float(self.far[0])
        before = after - 1
        part = -gap[before] / (gap[after] - gap[before])
        return float(self.far[before] + part * (self.far[after] - self.far[before]))

    def tar(self, far: float) -> float:
        """Highest true accept rate with a false accept rate of at most `far`."""
        return float(self.accepted[self._at(far)])

    def threshold(self, far: float) -> float:
        """Similarity threshold of `tar`."""
        return float(self.thresholds[self._at(far)])

    def _at(self, far: float) -> int:
        return int(np.searchsorted(self.far, far, side="right")) - 1


def similarities(embeddings: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities of all pairs of the same identity, and of all others.

    Args:
        embeddings: float [N, D], of unit length.
        identities: int [N].

    Returns:
        float32 [pairs] each; a single 0 if there is no such pair.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    cosines = (embeddings @ embeddings.T)[first, second].astype(np.float32)
    same = identities[first] == identities[second]
    nothing = np.zeros(1, np.float32)
    return (cosines[same] if same.any() else nothing), (cosines[~same] if not same.all() else nothing)


def roc(same: np.ndarray, strangers: np.ndarray) -> Roc:
    """ROC of similarities of genuine pairs, float [P], and impostor pairs, float [Q]; NaN if any of them is."""
    values = np.concatenate([same, strangers])
    if np.isnan(values).any():
        return Roc(*np.full((3, 2), np.nan))
    order = np.argsort(-values, kind="stable")
    ranked, own = values[order], order < len(same)
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # tied pairs are accepted together
    accepted, far = (np.cumsum(kind)[last] / kind.sum() for kind in (own, ~own))
    above = ranked[0] + 1e-3
    return Roc(np.append(0.0, far), np.append(0.0, accepted), np.append(above, ranked[last]))


def rank1(embeddings: np.ndarray, identities: np.ndarray) -> float:
    """Share of rows whose nearest enrolled image has the same identity, with one image enrolled per identity.

    Averaged over enrolling each of an identity's first ten images. 0 if no identity has two.
    """
    members = [np.flatnonzero(identities == identity) for identity in np.unique(identities)]
    right = asked = 0
    for turn in range(min(10, max(len(rows) for rows in members))):
        enrolled = np.array([rows[turn % len(rows)] for rows in members])
        probes = np.setdiff1d(np.arange(len(identities)), enrolled)
        if len(probes):
            found = identities[enrolled][(embeddings[probes] @ embeddings[enrolled].T).argmax(axis=1)]
            right += int((found == identities[probes]).sum())
            asked += len(probes)
    return right / asked if asked else 0.0


def nearest(embeddings: np.ndarray) -> np.ndarray:
    """Index of the most similar other row, int [N]."""
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(axis=1))
