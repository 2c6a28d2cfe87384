"""Plots for translation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lepton_tasks.learning.text_plots import text_table


def worst_plot(path: Path, source: Sequence[str], made: Sequence[str], wanted: Sequence[str], *, count: int) -> Path:
    """Render the translations with the lowest chrF, worst first.

    Args:
        path: The PNG file to write.
        source: The sources.
        made: Translations.
        wanted: The references.
        count: Maximum number of texts.
    """
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    scores = [chrf.sentence_score(own, [true]).score for own, true in zip(made, wanted, strict=True)]
    order = [int(row) for row in np.argsort(scores, kind="stable") if made[row] != wanted[row]][:count]
    rows = [
        entry
        for row in order
        for entry in ((f"chrF {scores[row]:.0f}: {source[row]}", made[row] or "(nothing)"), ("wanted", wanted[row]))
    ]
    return text_table(path, "Worst texts" if rows else "No mistake", rows)


def length_plot(path: Path, made: Sequence[str], wanted: Sequence[str]) -> Path:
    """Plot the number of words of translations and references.

    Args:
        path: The PNG file to write.
        made: Translations.
        wanted: The references.
    """
    from matplotlib.figure import Figure

    counts = [[len(text.split()) for text in texts] for texts in (wanted, made)]
    most = max(map(max, counts))
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(counts, bins=[words - 0.5 for words in range(most + 2)], label=["wanted", "made"])
    axes.set(xlabel="words", ylabel="texts", title="Rows of the test split")
    axes.legend()
    figure.savefig(path, dpi=110)
    return path


def attention_plot(path: Path, tables: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]]) -> Path:
    """Plot the attention to the source for each generated token.

    Args:
        path: The PNG file to write.
        tables: Per text the S source tokens, the T generated tokens, and attention weights float [T, S].
    """
    from matplotlib.figure import Figure

    columns = min(2, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(6.5 * columns, 6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(tables) :]:
        axes.axis("off")
    for axes, (source, made, weights) in zip(grid, tables, strict=False):
        axes.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
        axes.set_xticks(range(len(source)), source, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(made)), made, fontsize=8, parse_math=False)
        axes.xaxis.tick_top()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # scripts the font lacks are drawn as boxes
        figure.savefig(path, dpi=110)
    return path
