"""Plots for regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_MOST = 5_000  # points per figure


def residual_plot(path: Path, said: np.ndarray, true: np.ndarray) -> Path:
    """Plot predictions against true values, and the residuals, into the PNG file `path`.

    Args:
        path: The file.
        said: Predictions, float [N].
        true: float [N].
    """
    from matplotlib.figure import Figure

    rows = np.linspace(0, len(said) - 1, min(len(said), _MOST)).astype(np.int64)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    ends = [min(said.min(), true.min()), max(said.max(), true.max())]
    left.plot(ends, ends, color="grey", linestyle=":")
    left.scatter(true[rows], said[rows], s=6, alpha=0.5)
    left.set(xlabel="true", ylabel="answered")
    middle.axhline(0, color="grey", linestyle=":")
    middle.scatter(said[rows], (said - true)[rows], s=6, alpha=0.5)
    middle.set(xlabel="answered", ylabel="answered - true")
    right.hist(said - true, bins=40)
    right.set(xlabel="answered - true", ylabel="rows")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path
