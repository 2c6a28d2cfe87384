"""Shared parts of token networks: padding mask, embeddings, pooling.

A row of tokens is as long as its text, then `PAD`: outputs must not depend on the amount of padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from lepton_tasks.codecs.text import PAD, UNKNOWN

Pool = Literal["attention", "max", "mean"]

_SPREAD = 0.1  # initial standard deviation of embeddings
_HIDDEN = -1e4  # below any score; finite in half precision too


def real(tokens: torch.Tensor) -> torch.Tensor:
    """Mask of non-padding tokens int [N, T], bool [N, T]; the first is always true, so no row is empty."""
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return (tokens != PAD) | first


def trimmed(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens int [N, T] without all-padding columns; at least one column."""
    used = int((tokens != PAD).any(dim=0).sum())  # padding is at the end only
    return tokens[:, : max(1, used)]


class TokenEmbedding(nn.Module):
    """Token embedding with word dropout and variational dropout in training.

    Args:
        vocabulary: Number of tokens.
        dimension: Length of an embedding.
        dropout: Dropout rate of embedding dimensions, with one mask for all positions of a text.
        word_dropout: Share of words replaced by the unknown token.

    Source: the same mask for all steps by Gal and Ghahramani, "A theoretically grounded application of dropout in
    recurrent neural networks", 2016; word dropout by Iyyer et al., "Deep unordered composition", 2015.
    """

    def __init__(self, vocabulary: int, dimension: int, *, dropout: float = 0.0, word_dropout: float = 0.0) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, dimension, padding_idx=PAD)
        nn.init.normal_(self.vectors.weight, std=_SPREAD)
        with torch.no_grad():
            self.vectors.weight[PAD].zero_()
        self.dropout, self.word_dropout = nn.Dropout1d(dropout), word_dropout

    def begin_with(self, vectors: torch.Tensor) -> None:
        """Load vectors float [vocabulary, D] into the first D dimensions; all-zero ones are skipped."""
        known = vectors.any(dim=1)
        known[: UNKNOWN + 1] = False
        width = min(vectors.shape[1], self.vectors.embedding_dim)
        scaled = vectors[:, :width] * (_SPREAD / vectors[known].std().clamp_min(1e-6))
        with torch.no_grad():
            self.vectors.weight[known, :width] = scaled[known]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Float [N, T, dimension] of int [N, T]; zeros for padding."""
        if self.training and self.word_dropout > 0:
            dropped = (torch.rand(tokens.shape, device=tokens.device) < self.word_dropout) & (tokens != PAD)
            tokens = torch.where(dropped, torch.full_like(tokens, UNKNOWN), tokens)
        vectors: torch.Tensor = self.vectors(tokens)
        # Dropout1d drops whole rows of [N, dimension, T]: one dimension, at all positions of a text.
        mixed: torch.Tensor = self.dropout(vectors.transpose(1, 2)).transpose(1, 2)
        return mixed


class Pooling(nn.Module):
    """Pool a text to one vector: attention with a learned query, maximum, mean.

    Args:
        width: Length of a position's vector.
        kinds: Poolings to concatenate.

    Source: Yang et al., "Hierarchical attention networks for document classification", 2016.
    """

    def __init__(self, width: int, kinds: Sequence[Pool]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.width = width * len(self.kinds)
        if "attention" in self.kinds:
            self.key, self.question = nn.Linear(width, width), nn.Linear(width, 1, bias=False)

    def forward(self, places: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [N, self.width] of float [N, T, width], and the weight of each position, float [N, T].

        Args:
            places: Vectors of the positions.
            mask: False for padding, bool [N, T].
        """
        shares = mask.to(places.dtype) / mask.sum(dim=1, keepdim=True).to(places.dtype)
        weights, pooled = shares, []
        for kind in self.kinds:
            if kind == "attention":
                scores = self.question(torch.tanh(self.key(places))).squeeze(2)
                weights = torch.softmax(torch.where(mask, scores, torch.full_like(scores, _HIDDEN)), dim=1)
                pooled.append(_weighted(weights, places))
            elif kind == "mean":
                pooled.append(_weighted(shares, places))
            else:
                pooled.append(torch.where(mask.unsqueeze(2), places, torch.full_like(places, _HIDDEN)).amax(dim=1))
        return torch.cat(pooled, dim=1), weights


def _weighted(weights: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return torch.bmm(weights.to(places.dtype).unsqueeze(1), places).squeeze(1)
