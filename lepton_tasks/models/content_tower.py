"""Content-based recommender: items by their words, users by the words of their items."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lepton_tasks.models.recommenders import Recommender, Share, Size, table


class ContentTower(Recommender):
    """Items as weighted means of word vectors; users by their items, the most recent weighted highest.

    Items without interactions are scored equally well; `popular` adds a learned popularity bias to the words.

    Args:
        num_items: Number of items; indices start at 1.
        num_words: Number of words; indices start at 1.
        item_words: Maximum words per item.
        size: Length of a vector.
        fade: Relative loss of weight from each item of the history to the one before it.
        dropout: Dropout rate of the user vector.
        popular: Whether each item has a bias.

    Source: Lops, de Gemmis and Semeraro, "Content-based recommender systems: state of the art and trends", 2011.
    """

    words: torch.Tensor

    def __init__(
        self,
        num_items: int,
        num_words: int,
        item_words: int,
        *,
        size: Size = 64,
        fade: Share = 0.1,
        dropout: Share = 0.2,
        popular: bool = True,
    ) -> None:
        super().__init__(0, num_items)
        # Breaks ties between items with the same words, which rounding would break otherwise.
        self.item_bias = table(num_items, 1, spread=1e-3).requires_grad_(popular)
        self.register_buffer("words", torch.zeros(num_items + 1, item_words, dtype=torch.int64))
        self.vectors, self.weights = table(num_words, size, spread=0.5), table(num_words, 1)
        self.user = nn.Linear(size, size, bias=False)
        nn.init.eye_(self.user.weight)
        self.dropout, self.fade = nn.Dropout(dropout), fade

    def describe(self, item_words: Sequence[Sequence[int]], weights: Sequence[float]) -> None:
        """Set the words of each item, by index from 1, and the weight of each word."""
        with torch.no_grad():
            for item, words in enumerate(item_words, start=1):
                self.words[item, : len(words)] = torch.tensor(list(words), dtype=torch.int64)
            self.weights.weight[1:, 0] = torch.tensor(list(weights))

    def forward(self, users: torch.Tensor, recent: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, C] of items int [N, C]."""
        described = self._items()
        wanted = self._user(described, recent)
        scores = (described[items] * wanted[:, None]).sum(dim=2) + self.item_bias(items)[..., 0]
        return torch.as_tensor(scores + self.level)

    def every(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """See `Recommender`."""
        described = self._items()
        scores = self._user(described, recent) @ described.T + self.item_bias.weight[:, 0]
        return torch.as_tensor(scores + self.level)

    def _items(self) -> torch.Tensor:
        """Vectors of all items by index, float32 [num_items + 1, size]."""
        weight = self.weights(self.words)
        mean = (self.vectors(self.words) * weight).sum(dim=1) / weight.abs().sum(dim=1).clamp(min=1)
        return torch.as_tensor(mean)

    def _user(self, described: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        recent = recent.long()
        there = (recent > 0).float()
        weight = there * torch.pow(1 - self.fade, torch.cumsum(there, dim=1) - there)
        history = (described[recent] * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.as_tensor(self.dropout(self.user(history)))
