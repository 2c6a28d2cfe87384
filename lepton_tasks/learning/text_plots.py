"""Plots for text models."""

from __future__ import annotations

import itertools
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_tasks.codecs.text import PAD
from lepton_tasks.core.protocols import Outputs, Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tokenizers import Tokenizer

_LINE = 96  # characters
_LINES = 3  # per text; the rest is omitted
_INCH = 0.19  # height of a line
_TEXTS = 8  # drawn word by word


def pieces(tokenizer: Tokenizer, tokens: np.ndarray) -> list[str]:
    """Text of each token, spaces included; joined they are the text as the network reads it."""
    ids = [int(token) for token in tokens if token != PAD]
    texts = [tokenizer.decode(ids[:end], skip_special_tokens=False) for end in range(len(ids) + 1)]
    return [after[len(before) :] for before, after in itertools.pairwise(texts)]


def text_table(path: Path, title: str, rows: Sequence[tuple[str, str]]) -> Path:
    """Draw short remarks, in bold, each above its text.

    Args:
        path: The PNG file to write.
        title: Title of the figure.
        rows: Remark and text.
    """
    from matplotlib.figure import Figure

    wrapped = [(remark, textwrap.wrap(text, _LINE, max_lines=_LINES, placeholder=" ...")) for remark, text in rows]
    lines = 2 + sum(1.4 + len(text) for _, text in wrapped)
    figure = Figure(figsize=(7, max(1.5, _INCH * lines)))
    at = _INCH / figure.get_figheight()
    figure.text(0.02, 1 - at, title, va="center", fontsize=11)
    line = 2.2
    for remark, text in wrapped:
        figure.text(0.02, 1 - at * line, remark, va="center", fontsize=8, weight="bold")
        for number, words in enumerate(text, start=1):
            figure.text(0.02, 1 - at * (line + number), words, va="center", fontsize=8, parse_math=False)
        line += 1.4 + len(text)
    return _saved(figure, path)


def worst_texts_plot(
    path: Path,
    tokenizer: Tokenizer,
    rows: Rows,
    probabilities: np.ndarray,
    labels: Sequence[str],
    *,
    count: int,
) -> Path:
    """Draw misclassified texts by the probability of the true label, lowest first.

    Args:
        path: The PNG file to write.
        tokenizer: Of the tokens.
        rows: Tokens int [N, T] and indices into `labels`, int [N].
        probabilities: Float [N, K].
        labels: The K names.
        count: Maximum number of texts.
    """
    order = np.argsort(probabilities[np.arange(len(rows.targets)), rows.targets], kind="stable")
    said = probabilities.argmax(axis=1)
    wrong = [row for row in order if said[row] != rows.targets[row]][:count]
    table = [
        (
            f"{labels[rows.targets[row]]}, not {labels[said[row]]} ({probabilities[row, said[row]]:.0%})",
            "".join(pieces(tokenizer, rows.inputs[row])),
        )
        for row in wrong
    ]
    return text_table(path, "Worst mistakes" if wrong else "No mistake", table)


def attention_plot(path: Path, tokenizer: Tokenizer, rows: Rows, outputs: Outputs, labels: Sequence[str]) -> Path:
    """Draw texts of different labels, with words shaded by attention weight.

    Args:
        path: The PNG file to write.
        tokenizer: Of the tokens.
        rows: Tokens int [N, T] and indices into `labels`, int [N].
        outputs: ``probabilities`` float [N, K] and ``attention`` float [N, T].
        labels: The K names.
    """
    _, firsts = np.unique(rows.targets, return_index=True)
    texts = []
    for row in list(dict.fromkeys([*np.sort(firsts), *range(len(rows.targets))]))[:_TEXTS]:
        best = int(outputs["probabilities"][row].argmax())
        head = f"{labels[best]} ({outputs['probabilities'][row, best]:.0%})"
        if best != rows.targets[row]:
            head += f", truly {labels[rows.targets[row]]}"
        words = pieces(tokenizer, rows.inputs[row])
        weights = outputs["attention"][row][: len(words)]
        texts.append((head, words, weights / max(float(weights.max()), 1e-9)))
    return _shaded(path, texts)


def surprise_plot(path: Path, tokenizer: Tokenizer, rows: Rows, surprise: np.ndarray) -> Path:
    """Draw texts from across the split, with tokens shaded by surprisal.

    Args:
        path: The PNG file to write.
        tokenizer: Of the tokens.
        rows: Tokens int [N, T].
        surprise: Of each token (nats), float [N, T + 1].
    """
    texts = []
    count = len(rows.inputs)
    for row in np.unique(np.linspace(0, count - 1, min(_TEXTS, count)).astype(int)):
        words = pieces(tokenizer, rows.inputs[row])
        own = surprise[row][: len(words)]
        texts.append((f"perplexity {np.exp(own.mean()):.0f}", words, own / max(float(surprise.max()), 1e-9)))
    return _shaded(path, texts)


def place_plot(path: Path, rows: Rows, surprise: np.ndarray) -> Path:
    """Plot the perplexity by token position over all texts.

    Args:
        path: The PNG file to write.
        rows: Tokens int [N, T].
        surprise: Of each token (nats), float [N, T + 1].
    """
    from matplotlib.figure import Figure

    real = np.asarray(rows.inputs) != PAD
    counts = real.sum(axis=0)
    often = counts >= max(1, counts.max() // 20)  # too few long texts beyond that
    means = (surprise[:, :-1] * real).sum(axis=0)[often] / counts[often]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(1 + np.flatnonzero(often), np.exp(means), marker=".")
    axes.set(xlabel="place of the token in the text", ylabel="perplexity", yscale="log", title="Rows of the test split")
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def _shaded(path: Path, texts: Sequence[tuple[str, Sequence[str], np.ndarray]]) -> Path:
    """Draw texts, each under a remark, with words shaded by their strength in [0, 1]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.95 * len(texts) + 0.3))
    for number, (head, words, strengths) in enumerate(texts):
        axes = figure.add_axes((0.02, 1 - (number + 1) / len(texts), 0.96, 0.92 / len(texts)))
        axes.set(xlim=(0, _LINE), ylim=(_LINES + 1.2, 0))
        axes.axis("off")
        axes.text(0, 0.5, head, va="center", fontsize=8, weight="bold")
        column, line = 0, 1
        for word, strength in zip(words, strengths, strict=True):
            if column + len(word) > _LINE and column:
                column, line = 0, line + 1
            if line > _LINES:
                break
            word = word if column else word.lstrip()
            shade = {"facecolor": "tab:orange", "alpha": 0.8 * float(strength), "pad": 0.5, "linewidth": 0}
            axes.text(
                column, line + 0.5, word, va="center", fontsize=8, family="monospace", bbox=shade, parse_math=False
            )
            column += len(word)
    return _saved(figure, path)


def _saved(figure: Figure, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # scripts the font lacks are drawn as boxes
        figure.savefig(path, dpi=110)
    return path
