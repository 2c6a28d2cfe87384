"""Plots of probabilities and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_tasks.learning.curves import auc, calibration, roc

_MOST = 10  # curves per figure


def roc_plot(path: Path, scores: Mapping[str, np.ndarray], positive: Mapping[str, np.ndarray]) -> Path:
    """Plot ROC curves into the PNG file `path`.

    Args:
        path: The file.
        scores: Of each curve, float [N].
        positive: Likewise, bool [N].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    for name in list(scores)[:_MOST]:
        axes.plot(*roc(scores[name], positive[name]), label=f"{name} (area {auc(scores[name], positive[name]):.3f})")
    axes.set(xlabel="share of the other rows", ylabel="share of its rows", title="At or above each score")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path


def calibration_plot(path: Path, probabilities: Mapping[str, np.ndarray], positive: Mapping[str, np.ndarray]) -> Path:
    """Plot calibration and the distribution of probabilities into the PNG file `path`.

    Args:
        path: The file.
        probabilities: Of each curve, float [N] in [0, 1].
        positive: Likewise, bool [N].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect calibration")
    for name in list(probabilities)[:_MOST]:
        said, seen, _ = calibration(probabilities[name], positive[name]).T
        axes.plot(said, seen, marker=".", label=name)
        below.hist(probabilities[name], bins=20, range=(0, 1), histtype="step")
    axes.set(ylabel="share of rows it is true of", title="Ten bins of probabilities")
    below.set(xlabel="probability", ylabel="rows", yscale="log")
    for one in (axes, below):
        one.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    return path
