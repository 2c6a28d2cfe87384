"""Transformer encoder for texts, and attention blocks for other networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.models.tokens import Pool, Pooling, TokenEmbedding, real


class Transformer(nn.Module):
    """Transformer encoder with pooling, for text classification.

    Args:
        vocabulary: Number of tokens.
        num_classes: Number of classes.
        width: Model width; a multiple of `heads`.
        heads: Number of attention heads.
        layers: Number of blocks.
        pooling: How the vectors of all positions are combined; see `Pooling`.
        dropout: Dropout rate.
        word_dropout: Share of words replaced by the unknown token in training.

    Source: Vaswani et al., "Attention is all you need", 2017; pre-normalisation by Xiong et al., "On layer
    normalization in the transformer architecture", 2020.
    """

    prunable: ClassVar[bool] = True

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        *,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        pooling: Sequence[Pool] = ("attention", "max"),
        dropout: float = 0.2,
        word_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, width, dropout=dropout, word_dropout=word_dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.pooling = Pooling(width, pooling)
        self.decide = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.pooling.width, num_classes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float [N, num_classes] of tokens int [N, T], and the weight of each position, float [N, T]."""
        mask = real(tokens)
        places = with_positions(self.embedding(tokens))
        for block in self.blocks:
            places = block(places, mask[:, None, None, :])
        pooled, weights = self.pooling(self.norm(places), mask)
        logits: torch.Tensor = self.decide(pooled)
        return logits, weights


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward layer.

    Args:
        width: Length of a position's vector.
        heads: Number of attention heads.
        dropout: Dropout rate.
        expansion: Width factor of the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, *, dropout: float, expansion: int = 4) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout=dropout)
        self.attention_norm, self.thought_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.thought = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Float [N, T, width] of the same; `mask`, bool, broadcast to [N, heads, T, T], limits attention."""
        seen = self.attention_norm(places)
        places = places + self.dropout(self.attention(seen, seen, mask))
        thought: torch.Tensor = places + self.dropout(self.thought(self.thought_norm(places)))
        return thought


class Attention(nn.Module):
    """Multi-head attention, between two texts or within one.

    Args:
        width: Length of a position's vector.
        heads: Number of attention heads.
        dropout: Dropout rate of the attention weights.
    """

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"the width {width} is not a multiple of {heads} heads.",
                where="model.params",
                fix="Change one of them.",
            )
        self.heads, self.dropout = heads, dropout
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # it would cancel in the softmax

    def forward(self, asking: torch.Tensor, asked: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Output float [N, T, width] of queries `asking` [N, T, width] over `asked` [N, S, width].

        `mask`, bool, broadcast to [N, heads, T, S], is true for visible positions, at least one each.
        """
        found = functional.scaled_dot_product_attention(
            self._split(self.query(asking)),
            self._split(self.key(asked)),
            self._split(self.value(asked)),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        answer: torch.Tensor = self.out(found.transpose(1, 2).flatten(2))
        return answer

    def _split(self, places: torch.Tensor) -> torch.Tensor:
        return places.view(*places.shape[:2], self.heads, -1).transpose(1, 2)


def with_positions(places: torch.Tensor) -> torch.Tensor:
    """Vectors float [N, T, width], width even, plus sinusoidal position encodings of the same scale.

    Source: Vaswani et al., 2017, sections 3.4 (scaling of the vectors) and 3.5.
    """
    length, width = places.shape[1:]
    at = torch.arange(length, device=places.device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10_000.0) / width))
    waves = torch.stack([torch.sin(at * rates), torch.cos(at * rates)], dim=2).flatten(1)
    return places * math.sqrt(width) + waves.to(places.dtype)
