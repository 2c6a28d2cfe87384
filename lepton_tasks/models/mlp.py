"""Multilayer perceptron for tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from lepton_tasks.codecs.tabular import FIRST_CODE


class MLP(nn.Module):
    """Embedded categories and piecewise numbers through residual layers, plus a linear model.

    Numbers enter both raw and as `bends` learned ``relu(a * x + b)``, so that the first layer need not be steep where
    the output changes within a small part of their range.

    Args:
        numbers: Number of numeric columns.
        codes: Number of codes of each categorical column.
        outputs: Number of outputs.
        width: Width of the residual layers.
        depth: Number of residual layers.
        embedding: Length of a code's embedding.
        bends: Number of ReLU features per number.
        dropout: Dropout rate, in [0, 1).

    Source: Cheng et al., "Wide & deep learning for recommender systems", 2016; Gorishniy et al., "Revisiting deep
    learning models for tabular data", 2021 (residual layers), and "On embeddings for numerical features in tabular deep
    learning", 2022 (ReLU features).
    """

    prunable: ClassVar[bool] = True

    offsets: torch.Tensor

    def __init__(
        self,
        numbers: int,
        codes: Sequence[int],
        outputs: int,
        *,
        width: int = 128,
        depth: int = 2,
        embedding: int = 8,
        bends: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        offsets = torch.tensor([0, *codes], dtype=torch.int64).cumsum(0)
        self.register_buffer("offsets", offsets[:-1], persistent=False)
        self.bends = _Bends(numbers, bends) if numbers and bends else None
        self.vectors = _vectors(int(offsets[-1]), embedding, offsets[:-1]) if codes else None
        self.wide_codes = _vectors(int(offsets[-1]), outputs, offsets[:-1]) if codes else None
        self.wide_numbers = nn.Linear(numbers, outputs, bias=False) if numbers else None
        inputs = numbers * (1 + bends) + len(codes) * embedding
        self.first = nn.Linear(inputs, width)
        self.layers = nn.Sequential(*(_Residual(width, dropout) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Outputs float32 [N, outputs] of numbers float32 [N, numbers] and codes int [N, codes]."""
        parts, wide = [numbers], numbers.new_zeros(())
        if self.bends is not None:
            parts.append(self.bends(numbers))
        if self.wide_numbers is not None:
            wide = wide + self.wide_numbers(numbers)
        if self.vectors is not None and self.wide_codes is not None:
            places = codes + self.offsets
            parts.append(self.vectors(places).flatten(1))
            wide = wide + self.wide_codes(places).sum(dim=1)
        deep: torch.Tensor = self.head(self.layers(self.first(torch.cat(parts, dim=1))))
        return deep + wide


class _Bends(nn.Module):
    """``relu(a * x + b)`` of each number, with kinks in the range of standardised numbers."""

    def __init__(self, numbers: int, bends: int) -> None:
        super().__init__()
        signs = torch.where(torch.arange(bends) % 2 == 0, 1.0, -1.0)
        at = torch.linspace(-2, 2, bends)
        self.slope = nn.Parameter(signs.repeat(numbers, 1))
        self.shift = nn.Parameter((-signs * at).repeat(numbers, 1))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """float32 [N, numbers * bends]."""
        return torch.relu(numbers[:, :, None] * self.slope + self.shift).flatten(1)


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.inner(x)
        return x + inner


def _vectors(count: int, length: int, offsets: torch.Tensor) -> nn.Embedding:
    """Small embeddings; zeros for codes possibly absent from training (unknown and missing values)."""
    made = nn.Embedding(count, length)
    with torch.no_grad():
        made.weight.mul_(0.1)
        for code in range(FIRST_CODE):
            made.weight[offsets + code] = 0
    return made
