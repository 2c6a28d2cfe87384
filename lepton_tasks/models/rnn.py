"""Recurrent text encoder for classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from lepton_tasks.models.tokens import Pool, Pooling, TokenEmbedding, real

Cell = Literal["elman", "gru", "lstm"]

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RNN(nn.Module):
    """Recurrent text classifier (Elman, GRU or LSTM), bidirectional by default.

    Args:
        vocabulary: Number of tokens.
        num_classes: Number of classes.
        cell: ``elman``, ``gru`` or ``lstm``.
        embedding: Length of a token's vector.
        width: Size of the hidden state per direction.
        layers: Number of stacked recurrent layers.
        bidirectional: Whether the text is also read backwards.
        pooling: How the states of all positions are combined; see `Pooling`.
        dropout: Dropout rate of token embeddings, between layers, and before the output layer.
        word_dropout: Share of words replaced by the unknown token in training.

    Source: Elman, "Finding structure in time", 1990; LSTM by Hochreiter and Schmidhuber, 1997; GRU by Cho et al., 2014;
    both directions by Schuster and Paliwal, 1997.
    """

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        *,
        cell: Cell = "gru",
        embedding: int = 128,
        width: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        pooling: Sequence[Pool] = ("attention", "max"),
        dropout: float = 0.4,
        word_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, embedding, dropout=dropout, word_dropout=word_dropout)
        self.reader = Reader(
            embedding, cell=cell, width=width, layers=layers, bidirectional=bidirectional, dropout=dropout
        )
        self.pooling = Pooling(self.reader.width, pooling)
        self.decide = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.pooling.width, num_classes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float [N, num_classes] of tokens int [N, T], and the weight of each position, float [N, T]."""
        mask = real(tokens)
        pooled, weights = self.pooling(self.reader(self.embedding(tokens), mask), mask)
        logits: torch.Tensor = self.decide(pooled)
        return logits, weights


class Reader(nn.Module):
    """Recurrent layers over padded rows; outputs do not depend on the padding after the text.

    Each direction is a separate network, and the backward one gets each row reversed within its length: packed
    sequences, which are equivalent, cannot be exported to ONNX.

    Args:
        inputs: Length of a position's vector.
        cell: ``elman``, ``gru`` or ``lstm``.
        width: Size of the hidden state per direction.
        layers: Number of layers.
        bidirectional: Whether the text is also read backwards.
        dropout: Dropout rate between layers.
    """

    def __init__(
        self, inputs: int, *, cell: Cell, width: int, layers: int = 1, bidirectional: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.width = width * (1 + bidirectional)
        sizes = [inputs, *[self.width] * (layers - 1)]
        self.forwards = nn.ModuleList(CELLS[cell](size, width, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(
            CELLS[cell](size, width, batch_first=True) for size in (sizes if bidirectional else [])
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States float [N, T, self.width] of vectors float [N, T, inputs]; `mask` bool [N, T] is false for padding."""
        turned = _turned(mask) if len(self.backwards) else None
        for index, layer in enumerate(self.forwards):
            if index:
                places = self.dropout(places)
            states = layer(places)[0]
            if turned is not None:
                back = self.backwards[index](_at(places, turned))[0]
                states = torch.cat([states, _at(back, turned)], dim=2)
            places = states
        return places


def _turned(mask: torch.Tensor) -> torch.Tensor:
    """Positions of each row from its last token to its first, then the padding unchanged: int64 [N, T]."""
    places = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
    last = mask.sum(dim=1, keepdim=True) - 1
    return torch.where(places <= last, last - places, places)


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return torch.gather(values, 1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))
