"""Word vectors from co-occurrence, to initialise embeddings for small corpora."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lepton_tasks.codecs.text import SPECIAL

_CONTEXTS = 1_024  # number of context words: the most frequent ones carry nearly all information
_SPAN = 5  # context window: tokens on each side
_SMOOTHING = 0.75  # exponent that reduces the weight of rare contexts


def train_vectors(tokens: Iterable[tuple[np.ndarray, np.ndarray]], vocabulary: int, dimension: int) -> dict[str, Any]:
    """Vectors of all tokens, as JSON values for `word_vectors`.

    Truncated SVD of the positive pointwise mutual information of tokens and context words. Deterministic: counts are
    exact, and the sign of each axis is fixed.

    Args:
        tokens: Batches of concatenated tokens and the number of tokens of each text.
        vocabulary: Size of the vocabulary.
        dimension: Length of a vector; less if there are fewer context words.

    Source: Levy, Goldberg, Dagan, Improving Distributional Similarity with Lessons Learned from Word Embeddings, TACL
    2015, https://aclanthology.org/Q15-1016 (smoothing 0.75; square root of the singular values).
    """
    contexts = min(vocabulary, len(SPECIAL) + _CONTEXTS)  # vocabularies are ordered by frequency
    counts = np.zeros(vocabulary * contexts, np.int64)
    for ids, lengths in tokens:
        text = np.repeat(np.arange(len(lengths)), lengths)
        for offset in range(1, _SPAN + 1):
            near = text[:-offset] == text[offset:]
            left, right = ids[:-offset][near].astype(np.int64), ids[offset:][near].astype(np.int64)
            for word, neighbour in ((left, right), (right, left)):
                real = (word >= len(SPECIAL)) & (neighbour >= len(SPECIAL)) & (neighbour < contexts)
                cells, times = np.unique(word[real] * contexts + neighbour[real], return_counts=True)
                counts[cells] += times
    table = _information(counts.reshape(vocabulary, contexts))
    # In double precision, so that rounding to half precision hides the summation order of threads.
    values, axes = np.linalg.eigh(table.T @ table)  # ascending
    kept = slice(None, -1 - min(dimension, contexts), -1)
    values, axes = np.maximum(values[kept], 1e-12), axes[:, kept]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    vectors = (table @ axes) / values**0.25  # U S^1/2, since the table is U S V' and the values are S^2
    return {"shape": list(vectors.shape), "data": base64.b64encode(vectors.astype("<f2").tobytes()).decode()}


def word_vectors(fitted: Mapping[str, Any]) -> np.ndarray | None:
    """The word vectors in the fitted values of `text`, float32 [vocabulary, dimension]; None if there are none.

    Tokens without context in the training split have a zero vector.
    """
    if (stored := fitted.get("vectors")) is None:
        return None
    return np.frombuffer(base64.b64decode(stored["data"]), "<f2").reshape(stored["shape"]).astype(np.float32)


def _information(counts: np.ndarray) -> np.ndarray:
    """Positive pointwise mutual information, float64, of counts [words, neighbours]."""
    words = counts.sum(axis=1, keepdims=True)
    neighbours = counts.sum(axis=0, keepdims=True) ** _SMOOTHING
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = counts * (neighbours.sum() / (words * neighbours))
        table: np.ndarray = np.log(ratio, out=np.zeros_like(ratio), where=ratio > 1)
    return table
