"""Plots for anomaly detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_tasks.codecs.anomaly import CELL


def scores_plot(path: Path, scores: np.ndarray, disturbed: np.ndarray, threshold: float) -> Path:
    """Plot scores in split order, and their distribution, into the PNG file `path`.

    Args:
        path: The file.
        scores: Of undisturbed rows, float [N].
        disturbed: Of disturbed rows, float [M].
        threshold: Scores above it are anomalies.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(scores, linewidth=0.8, marker=".", markersize=2)
    left.set(xlabel="test row", ylabel="score", title="Rows as they are", yscale="log")
    everything = np.concatenate([scores, disturbed])
    bins = np.geomspace(max(everything.min(), 1e-9), max(everything.max(), 1e-8), 41).tolist()
    for name, values in (("as they are", scores), ("disturbed", disturbed)):
        right.hist(values, bins=bins, alpha=0.6, label=f"{name} ({len(values):,})")
    right.set(xlabel="score", ylabel="rows", xscale="log")
    if np.isfinite(threshold):
        left.axhline(threshold, color="tab:red", linestyle=":", label=f"threshold {threshold:.3g}")
        right.axvline(threshold, color="tab:red", linestyle=":")
        left.legend()
    right.legend()
    figure.savefig(path, dpi=110)
    return path


def worst_pictures_plot(path: Path, pictures: np.ndarray, scores: np.ndarray, errors: np.ndarray) -> Path:
    """Draw images with a frame around the worst cell of each.

    Args:
        path: The PNG file to write.
        pictures: uint8 [N, H, W, C] with 1 or 3 channels.
        scores: float [N].
        errors: Of the cells, float [N, rows, columns].
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = max(1, min(4, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    figure = Figure(figsize=(3 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, score, cells in zip(grid, pictures, scores, errors, strict=False):
        axes.imshow(picture.squeeze(), cmap="gray" if picture.shape[-1] == 1 else None)
        row, column = np.unravel_index(int(cells.argmax()), cells.shape)
        axes.add_patch(
            Rectangle((float(column) * CELL - 0.5, float(row) * CELL - 0.5), CELL, CELL, fill=False, edgecolor="red")
        )
        axes.set_title(f"score {score:.3g}", fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def worst_windows_plot(path: Path, windows: np.ndarray, scores: np.ndarray, errors: np.ndarray) -> Path:
    """Plot windows, one line per variable, with the worst cell of each shaded.

    Args:
        path: The PNG file to write.
        windows: Scaled, float [N, steps, numbers].
        scores: float [N].
        errors: Of the cells, float [N, cells].
    """
    from matplotlib.figure import Figure

    columns = max(1, min(4, len(windows)))
    rows = max(1, -(-len(windows) // columns))
    figure = Figure(figsize=(3.4 * columns, 2.3 * rows), layout="constrained")
    for axes, window, score, cells in zip(
        figure.subplots(rows, columns, squeeze=False).ravel(), windows, scores, errors, strict=False
    ):
        axes.plot(window, linewidth=0.8)
        start = int(cells.argmax()) * CELL
        axes.axvspan(start, min(start + CELL, len(window)) - 1, color="red", alpha=0.15)
        axes.set_title(f"score {score:.3g}", fontsize=8)
    figure.savefig(path, dpi=110)
    return path
