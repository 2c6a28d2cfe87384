"""The picture of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_curves(path: Path, history: Sequence[dict[str, Any]], best_epoch: int) -> Path:
    """Draw losses and the other validation metrics over epochs into the PNG file `path`; the kept epoch is marked."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    losses = [name for name in history[0] if name.endswith("_loss")]
    others = [name for name in history[0] if name.startswith("validation_") and name not in losses]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), (losses, others), strict=True):
        for name in names:
            axes.plot(epochs, [row[name] for row in history], label=name.replace("_", " "), marker=".")
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept epoch ({best_epoch})")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)
    return path
