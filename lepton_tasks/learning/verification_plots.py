"""Plots for verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_tasks.learning.verification import Roc

_SMALLEST = 1e-4  # lower end of the logarithmic axis of false accept rates


def roc_plot(path: Path, curves: Mapping[str, Roc], *, far: float) -> Path:
    """Plot ROC curves by name, with a logarithmic false accept rate; `far` is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.step(np.maximum(curve.far, _SMALLEST), curve.accepted, where="post", label=f"{name}: AUC {curve.auc:.4f}")
    axes.axvline(far, color="grey", linestyle=":", label=f"{far:.0%} of strangers accepted")
    axes.set(
        xscale="log",
        xlim=(_SMALLEST, 1),
        ylim=(0, 1.02),
        xlabel="strangers accepted (share of their pairs)",
        ylabel="same person accepted (share of their pairs)",
        title="Pairs of the test split",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path


def similarity_plot(path: Path, same: np.ndarray, strangers: np.ndarray, threshold: float) -> Path:
    """Plot the similarity distributions of genuine pairs, float [P], and impostor pairs, float [Q]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(-1, 1, 81).tolist()
    for values, name in ((strangers, "strangers"), (same, "same person")):
        axes.hist(values, bins=bins, density=True, alpha=0.6, label=f"{name} ({len(values):,} pairs)")
    axes.axvline(threshold, color="grey", linestyle=":", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="cosine similarity", ylabel="density", title="Pairs of the test split")
    axes.legend()
    figure.savefig(path, dpi=110)
    return path


def pairs_plot(path: Path, pictures: np.ndarray, embeddings: np.ndarray, identities: np.ndarray, *, count: int) -> Path:
    """Draw the least similar genuine pairs above the most similar impostor pairs.

    Args:
        path: The PNG file to write.
        pictures: uint8 [N, H, W, C] with 1 or 3 channels.
        embeddings: float [N, D], of unit length.
        identities: int [N].
        count: Maximum number of pairs, half of each kind.
    """
    from matplotlib.figure import Figure

    first, second = np.triu_indices(len(pictures), 1)
    cosines = (embeddings @ embeddings.T)[first, second]
    same = identities[first] == identities[second]
    order = np.argsort(cosines, kind="stable")
    each = max(1, count // 2)
    kinds = {
        "same person": [pair for pair in order if same[pair]][:each],
        "strangers": [pair for pair in order[::-1] if not same[pair]][:each],
    }
    figure = Figure(figsize=(1.9 * each, 4.4), layout="constrained")
    grid = figure.subplots(2, each, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for line, (name, pairs) in zip(grid, kinds.items(), strict=True):
        for axes, pair in zip(line, pairs, strict=False):
            both = np.concatenate([pictures[first[pair]], pictures[second[pair]]], axis=1)
            axes.imshow(both.squeeze(), cmap="gray" if both.shape[-1] == 1 else None)
            axes.set_title(f"{name}\n{cosines[pair]:.2f}", fontsize=7)
    figure.savefig(path, dpi=110)
    return path
