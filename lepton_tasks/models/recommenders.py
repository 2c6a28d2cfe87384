"""Recommender networks: matrix factorisation, NeuMF, two towers.

All share one signature: users int [N], their recent items int [N, L] (newest first, padded with 0) and items int [N, C]
-> scores float32 [N, C]. User and item indices start at 1; 0 is unknown to training, with a zero vector and bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pydantic
import torch
from torch import nn

Size = Annotated[int, pydantic.Field(ge=1, le=4_096)]
Share = Annotated[float, pydantic.Field(ge=0, lt=1)]


class Recommender(nn.Module):
    """Base class of recommenders, with a global level and a bias per item.

    Args:
        num_users: Users are numbered from 1 to this.
        num_items: Items are numbered from 1 to this.
    """

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.level: torch.Tensor
        self.register_buffer("level", torch.zeros(1))
        self.item_bias = table(num_items, 1, spread=0.0)  # an embedding, so that weight decay applies

    def begin(self, *, level: float, users: np.ndarray, items: np.ndarray) -> None:
        """Initialise from statistics of the training split.

        Args:
            level: Global score level; the mean rating.
            users: int [P], with `items` the training pairs.
            items: int [P].
        """
        self.level.fill_(level)

    def forward(self, users: torch.Tensor, recent: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, C] of items int [N, C]."""
        raise NotImplementedError

    def every(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, num_items + 1] of all items by index; index 0 is meaningless."""
        items = torch.arange(self.num_items + 1, device=users.device)
        return torch.as_tensor(self(users, recent, items.expand(users.shape[0], -1)))


class Factors(Recommender):
    """Recommender whose scores are dot products of user and item vectors."""

    def user_vectors(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """Float32 [N, D]."""
        raise NotImplementedError

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """Float32 [..., D] of items int [...]."""
        raise NotImplementedError

    def offsets(self, users: torch.Tensor) -> torch.Tensor:
        """Offset of all scores of a user, float32 [N, 1]."""
        return self.level.expand(users.shape[0], 1)

    def forward(self, users: torch.Tensor, recent: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, C] of items int [N, C]."""
        product = (self.item_vectors(items) * self.user_vectors(users, recent)[:, None]).sum(dim=2)
        return torch.as_tensor(product + self.item_bias(items)[..., 0] + self.offsets(users))

    def every(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """See `Recommender.every`; a single matrix product."""
        vectors = self.item_vectors(torch.arange(self.num_items + 1, device=users.device))
        product = self.user_vectors(users, recent) @ vectors.T
        return product + self.item_bias.weight[:, 0] + self.offsets(users)


class MatrixFactorisation(Factors):
    """User and item vectors and biases; with `history`, a user's items contribute to the user vector.

    Args:
        num_users: Users are numbered from 1 to this.
        num_items: Items are numbered from 1 to this.
        size: Length of a vector.
        history: Add the vectors of a user's items to the user's vector, regardless of their ratings (SVD++).
        dropout: Dropout rate of the vectors.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", 2009; with `history`
    Koren, "Factorization meets the neighborhood", 2008.
    """

    def __init__(
        self, num_users: int, num_items: int, *, size: Size = 32, history: bool = False, dropout: Share = 0.0
    ) -> None:
        super().__init__(num_users, num_items)
        self.user_bias = table(num_users, 1, spread=0.0)
        self.users, self.items = table(num_users, size), table(num_items, size)
        self.touched = table(num_items, size, spread=0.01) if history else None
        self.dropout = nn.Dropout(dropout)

    def user_vectors(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """See `Factors`."""
        vectors: torch.Tensor = self.users(users)
        if self.touched is not None:
            count = (recent > 0).sum(dim=1, keepdim=True).clamp(min=1)
            vectors = vectors + self.touched(recent).sum(dim=1) / count.float().sqrt()
        return torch.as_tensor(self.dropout(vectors))

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """See `Factors`."""
        return torch.as_tensor(self.items(items))

    def offsets(self, users: torch.Tensor) -> torch.Tensor:
        """See `Factors`."""
        return torch.as_tensor(self.level + self.user_bias(users))


class TwoTower(Factors):
    """User tower (user and recent items) and item tower that map to vectors.

    Args:
        num_users: Users are numbered from 1 to this.
        num_items: Items are numbered from 1 to this.
        size: Length of the vectors that are compared.
        hidden: Widths of the layers of each tower; none for plain vectors.
        fade: Relative loss of weight from each item of the history to the one before it.
        dropout: Dropout rate of the user vector.

    Source: Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", 2016; Yi et al.,
    "Sampling-bias-corrected neural modeling for large corpus item recommendations", 2019.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        size: Size = 64,
        hidden: Sequence[Size] = (128,),
        fade: Share = 0.1,
        dropout: Share = 0.1,
    ) -> None:
        super().__init__(num_users, num_items)
        self.users, self.items = table(num_users, size), table(num_items, size)
        self.fade = fade
        self.user_tower = _tower(2 * size, hidden, size, dropout)
        self.item_tower = _tower(size, hidden, size, dropout, bias=False)

    def user_vectors(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """See `Factors`."""
        there = (recent > 0).float()
        weight = there * torch.pow(1 - self.fade, torch.cumsum(there, dim=1) - there)
        history = (self.items(recent) * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.as_tensor(self.user_tower(torch.cat((self.users(users), history), dim=1)))

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """See `Factors`."""
        return torch.as_tensor(self.item_tower(self.items(items)))


class NeuMF(Recommender):
    """Matrix factorisation and a small network combined (neural matrix factorisation).

    Args:
        num_users: Users are numbered from 1 to this.
        num_items: Items are numbered from 1 to this.
        size: Length of each vector.
        hidden: Widths of the network's layers.
        dropout: Dropout rate before the last layer.

    Source: He et al., "Neural collaborative filtering", 2017.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        size: Size = 16,
        hidden: Sequence[Size] = (32, 16),
        dropout: Share = 0.0,
    ) -> None:
        super().__init__(num_users, num_items)
        self.product_users, self.product_items = table(num_users, size), table(num_items, size)
        # Large enough for the first layer to distinguish pairs from the start.
        self.deep_users, self.deep_items = table(num_users, size, spread=0.5), table(num_items, size, spread=0.5)
        self.deep = _tower(2 * size, hidden[:-1], hidden[-1], dropout, bias=False)
        self.last = nn.Linear(size + hidden[-1], 1, bias=False)

    def forward(self, users: torch.Tensor, recent: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, C] of items int [N, C]."""
        product = self.product_users(users)[:, None] * self.product_items(items)
        deep_items = self.deep_items(items)
        deep = self.deep(torch.cat((self.deep_users(users)[:, None].expand_as(deep_items), deep_items), dim=2))
        scores = self.last(torch.cat((product, deep.relu()), dim=2))[..., 0]
        return torch.as_tensor(scores + self.item_bias(items)[..., 0] + self.level)


def table(count: int, size: int, *, spread: float = 0.1) -> nn.Embedding:
    """Embedding [count + 1, size]; the vector of index 0 stays 0."""
    table = nn.Embedding(count + 1, size, padding_idx=0)
    nn.init.normal_(table.weight, std=spread)
    with torch.no_grad():
        table.weight[0] = 0
    return table


def _tower(inputs: int, hidden: Sequence[int], outputs: int, dropout: float, *, bias: bool = True) -> nn.Sequential:
    """Layers with ReLU between them; `bias` of the last one is omitted if it would shift all scores equally."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(inputs, outputs, bias=bias))
