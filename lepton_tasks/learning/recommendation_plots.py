"""Plots for recommenders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_BINS = 6


def ratings_plot(path: Path, answers: np.ndarray, ratings: np.ndarray) -> Path:
    """Plot the distribution of predictions (float [N]) by true rating (float [N])."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    given = np.unique(ratings)
    if len(given) > 12:
        axes.scatter(ratings, answers, s=4, alpha=0.3)
    else:
        width = float(np.diff(given).min()) * 0.7 if len(given) > 1 else 0.5
        groups = [answers[ratings == rating] for rating in given]
        axes.boxplot(groups, positions=given, widths=width, showfliers=False, manage_ticks=False)
        axes.set_xticks(given, [f"{r:g}\n{len(group):,}" for r, group in zip(given, groups, strict=True)])
    low, high = float(ratings.min()), float(ratings.max())
    axes.plot([low, high], [low, high], color="grey", linestyle=":", label="answered as rated")
    axes.set(xlabel="rated, and how often", ylabel="answered", title="Ratings of the test split")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)
    return path


def error_by_count_plot(path: Path, errors: np.ndarray, counts: Mapping[str, np.ndarray]) -> Path:
    """Plot the RMSE of errors float [N] by interaction counts int [N], a panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(counts), 4), layout="constrained")
    for axes, (name, count) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True):
        parts = bins_of(count)
        rmse = [float(np.sqrt((errors[rows] ** 2).mean())) for rows in parts.values()]
        axes.bar(range(len(parts)), rmse, color="tab:blue")
        axes.axhline(float(np.sqrt((errors**2).mean())), color="grey", linestyle=":", label="all")
        axes.set_xticks(
            range(len(parts)), [f"{label}\n{rows.sum():,} rows" for label, rows in parts.items()], fontsize=8
        )
        axes.set(xlabel=f"{name} in training", ylabel="RMSE")
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path


def bins_of(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Bins of roughly equal size by count, int [N]: ``"3 to 9" -> bool [N]``; 0 has a bin of its own."""
    some = counts[counts > 0]
    found = {"0": counts == 0}
    low = 1
    edges = np.quantile(some, np.linspace(0, 1, _BINS + 1)[1:], method="higher") if len(some) else some
    for edge in np.unique(edges).tolist():
        rows = (counts >= low) & (counts <= edge)
        found[f"{low:,} to {edge:,}" if low < edge else f"{edge:,}"] = rows
        low = edge + 1
    return {label: rows for label, rows in found.items() if rows.any()}


def hit_rate_plot(path: Path, hits: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray]) -> Path:
    """Plot the hit rate of models by name (bool [N]), by counts int [N], a panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(counts), 4), layout="constrained")
    for axes, (name, count) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True):
        parts = bins_of(count)
        width = 0.8 / len(hits)
        for index, (who, right) in enumerate(hits.items()):
            at = np.arange(len(parts)) + (index - (len(hits) - 1) / 2) * width
            axes.bar(at, [right[rows].mean() for rows in parts.values()], width, label=f"{who}: {right.mean():.3f}")
        axes.set_xticks(
            range(len(parts)), [f"{label}\n{rows.sum():,} rows" for label, rows in parts.items()], fontsize=8
        )
        axes.set(xlabel=f"{name}, in training", ylabel="hit rate at 10", ylim=(0, 1.2))
        axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)
    return path


def long_tail_plot(path: Path, candidates: np.ndarray, scores: np.ndarray, *, items: int, top: int = 10) -> Path:
    """Plot which items are recommended, from the most popular to the least.

    Args:
        path: The PNG file to write.
        candidates: int [N, C], item indices by popularity, the correct one first; 0 for none.
        scores: float [N, C].
        items: Number of items.
        top: Recommendations counted per row.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    front = np.take_along_axis(candidates, np.argsort(-scores, axis=1)[:, :top], axis=1)
    for name, chosen in (("asked about", candidates), ("put in front", front), ("right", candidates[:, :1])):
        count = np.bincount(chosen.ravel(), minlength=items + 1)[1:]
        axes.plot(np.arange(1, items + 1) / items, np.cumsum(count) / max(1, count.sum()), label=name)
    axes.set(
        xlabel="share of all items, the most popular first",
        ylabel="share of what is ...",
        title=f"{len(np.unique(front[front > 0])):,} of {items:,} items are recommended to someone",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path
