"""Plots for forecasting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_WINDOWS = 6  # per figure
_MOST = 1_000  # points per line


def steps_plot(path: Path, said: Mapping[str, np.ndarray], true: np.ndarray) -> Path:
    """Plot the mean absolute error of each step ahead into the PNG file `path`.

    Args:
        path: The file.
        said: Forecasts by name, float [N, horizon].
        true: float [N, horizon].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in said.items():
        axes.plot(np.arange(1, true.shape[1] + 1), np.abs(values - true).mean(axis=0), marker=".", label=name)
    axes.set(xlabel="steps ahead", ylabel="mean absolute error", title="Rows of the test split")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    return path


def forecasts_plot(path: Path, past: np.ndarray | None, said: np.ndarray, true: np.ndarray) -> Path:
    """Plot evenly spaced windows of the split, with forecasts and actual values.

    Args:
        path: The PNG file to write.
        past: float [N, window]; None if the target's past is not an input.
        said: float [N, horizon].
        true: float [N, horizon].
    """
    from matplotlib.figure import Figure

    rows = np.unique(np.linspace(0, len(true) - 1, _WINDOWS + 2)[1:-1].astype(np.int64))
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    grid = figure.subplots(2, -(-len(rows) // 2), squeeze=False, sharey=True).ravel()
    ahead = np.arange(1, true.shape[1] + 1)
    for axes, row in zip(grid, rows, strict=False):
        if past is not None:
            axes.plot(np.arange(1 - past.shape[1], 1), past[row], color="grey", label="past")
        axes.plot(ahead, true[row], color="black", marker=".", label="what came")
        axes.plot(ahead, said[row], color="tab:orange", marker=".", label="forecast")
        axes.axvline(0.5, color="grey", linestyle=":")
        axes.set_title(f"test row {row}", fontsize=8)
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=8)
    figure.supxlabel("steps from the end of the window")
    figure.savefig(path, dpi=110)
    return path


def last_step_plot(path: Path, said: np.ndarray, true: np.ndarray) -> Path:
    """Plot last-step forecasts and actual values: the start of the split as lines, all of it as points.

    Args:
        path: The PNG file to write.
        said: float [N].
        true: float [N].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    left.plot(true[:_MOST], color="black", linewidth=1, label="what came")
    left.plot(said[:_MOST], color="tab:orange", linewidth=1, label="forecast, last step")
    left.set(xlabel="test row", title=f"The first {min(_MOST, len(true)):,} rows of the test split")
    left.legend()
    ends = [float(true.min()), float(true.max())]
    right.plot(ends, ends, color="grey", linestyle=":")
    right.scatter(true, said, s=3, alpha=0.3)
    right.set(xlabel="what came", ylabel="forecast, last step")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path
