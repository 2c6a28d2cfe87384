"""Plots for object detection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lepton_tasks.core.protocols import Outputs
from lepton_tasks.learning.average_precision import AveragePrecision


def precision_plot(path: Path, found: AveragePrecision, labels: Sequence[str]) -> Path:
    """Plot the precision-recall curve of each class at IoU .5 into the PNG file `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, label in enumerate(labels):
        if found.precision[0, 0, kind] >= 0:
            name = f"{label}: AP50 {found.at_half[kind]:.3f}"
            axes.plot(np.linspace(0, 1, 101), found.precision[0, :, kind], label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="Boxes of the test split")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=110)
    return path


def boxes_plot(
    path: Path, pictures: np.ndarray, outputs: Outputs, targets: np.ndarray, labels: Sequence[str], *, least: float
) -> Path:
    """Draw images with predicted boxes (a colour per class, with score) and ground truth (white, dotted).

    Args:
        path: The PNG file to write.
        pictures: uint8 [N, H, W, C].
        outputs: ``boxes`` float [N, M, 4] in pixels, ``scores`` and ``kinds`` [N, M].
        targets: Class (below 0: none) and sides in pixels, float [N, L, 5].
        labels: Class names.
        least: Minimum score to draw.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = max(1, min(4, len(pictures)))
    lines = max(1, -(-len(pictures) // columns))
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    colours = colormaps["tab10"]
    for axes in grid:
        axes.axis("off")
    for row, (axes, picture) in enumerate(zip(grid, pictures, strict=False)):
        axes.imshow(picture.squeeze(), cmap="gray" if picture.shape[-1] == 1 else None)
        for kind, *sides in targets[row]:
            if kind >= 0:
                axes.add_patch(_frame(Rectangle, sides, colour="white", style=":"))
        for box, score, kind in zip(*(outputs[name][row] for name in ("boxes", "scores", "kinds")), strict=True):
            if score >= max(least, 1e-6):
                axes.add_patch(_frame(Rectangle, box, colour=colours(int(kind) % 10), style="-"))
                axes.text(box[0], box[1], f"{score:.2f}", fontsize=5, color=colours(int(kind) % 10), va="bottom")
    names = [Rectangle((0, 0), 1, 1, color=colours(kind % 10)) for kind in range(min(10, len(labels)))]
    figure.legend(names, labels[:10], loc="outside upper center", ncols=10, fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def _frame(rectangle: type, sides: Sequence[float], *, colour: object, style: str) -> object:
    left, top, right, bottom = sides
    return rectangle(
        (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=style, linewidth=1
    )
