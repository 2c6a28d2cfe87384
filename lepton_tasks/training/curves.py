"""Training curves as plots and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def told(row: Mapping[str, Any]) -> str:
    """Summary line of an epoch from its history row: losses, validation metrics, speed."""
    names = [name for name in row if name.endswith("_loss") or name.startswith("validation_")]
    figures = [f"{name.replace('_', ' ')} {row[name]:.4g}" for name in names]
    return ", ".join([*figures, f"{row['samples_per_second']:,.0f} samples/s"])


def plot_curves(path: Path, history: Sequence[dict[str, Any]], best_epoch: int) -> Path:
    """Plot losses and the other validation metrics by epoch as a PNG file; the selected epoch is marked."""
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


def plot_rates(path: Path, rates: Sequence[Sequence[float]]) -> Path:
    """Plot the learning rate by epoch as a PNG file, one line per optimiser.

    Args:
        path: The file.
        rates: `Course.rates`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs, *optimizers = zip(*rates, strict=True)
    for number, values in enumerate(optimizers):
        axes.plot(epochs, values, label=f"optimiser {number}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(optimizers) > 1:
        axes.legend()
    figure.savefig(path, dpi=110)
    return path
