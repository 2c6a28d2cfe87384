"""Wrap text networks for training and serving."""

from __future__ import annotations

import torch
from torch import nn


class Logits(nn.Module):
    """Only the logits of a network that also returns attention weights.

    Args:
        network: Tokens int [N, T] -> logits float [N, K] and weights float [N, T].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits float [N, K] of tokens int [N, T]."""
        logits: torch.Tensor = self.network(tokens)[0]
        return logits


class TextClassifier(nn.Module):
    """Serving graph of a text classifier.

    Args:
        network: Tokens int [N, T] -> logits float [N, K] and weights float [N, T].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities float32 [N, K] of tokens int32 [N, T], and the weight of each position, float32 [N, T]."""
        logits, weights = self.network(tokens)
        return torch.softmax(logits.float(), dim=1), weights.float()
