"""Plots for classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def confusion_plot(path: Path, counts: np.ndarray, labels: Sequence[str]) -> Path:
    """Draw a confusion matrix.

    Args:
        path: The PNG file to write.
        counts: int [K, K], row = true label, column = predicted label.
        labels: The K names.
    """
    from matplotlib.figure import Figure

    size = min(16.0, 2.5 + 0.45 * len(labels))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Rows of the test split")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    if len(labels) <= 30:  # beyond that the numbers overlap
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def worst_plot(
    path: Path, inputs: np.ndarray, outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str], *, count: int
) -> Path:
    """Draw misclassified images by the probability of the true label, lowest first.

    Args:
        path: The PNG file to write.
        inputs: uint8 [N, H, W, C] with 1 or 3 channels.
        outputs: Probabilities float [N, K].
        targets: Indices into `labels`, int [N].
        labels: The K names.
        count: Maximum number of images.
    """
    from matplotlib.figure import Figure

    order = np.argsort(outputs[np.arange(len(targets)), targets], kind="stable")
    wrong = [row for row in order if outputs[row].argmax() != targets[row]][:count]
    columns = max(1, min(8, len(wrong)))
    rows = max(1, -(-len(wrong) // columns))
    figure = Figure(figsize=(1.7 * max(columns, 3), 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, row in zip(grid, wrong, strict=False):
        said = int(outputs[row].argmax())
        axes.imshow(inputs[row].squeeze(), cmap="gray" if inputs.shape[-1] == 1 else None)
        axes.set_title(f"{labels[targets[row]]}, not {labels[said]}\n({outputs[row, said]:.0%})", fontsize=7)
    if not wrong:
        grid[0].text(0.5, 0.5, "no mistake", ha="center", va="center")
    figure.savefig(path, dpi=110)
    return path
