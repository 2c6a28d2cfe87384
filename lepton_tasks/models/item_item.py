"""What goes with what: each item a user has touched speaks for its neighbours."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pydantic
import torch
from torch import nn

from lepton_tasks.models.recommenders import Recommender, Size, table

_AGES = 8
"""Weights by age: of the latest item, the 2nd, 3rd to 4th, 5th to 8th, ..., from the 65th on."""


class ItemItem(Recommender):
    """The sum over a user's items of a weight for each of their neighbours, by age, and of a product of vectors.

    It begins with the ridge regression of every item on all others; training moves the weights, and learns what the
    age of a touch means. Whoever has no number is served as well as others, by what was touched lately.

    Args:
        num_users: Not used: a user is what he has touched.
        num_items: Items are numbered from 1 to this.
        neighbours: Neighbours of an item that are kept, those with the largest weights.
        ridge: Penalty of the regression; larger where there is little data for each item.
        most: The regression is over so many of the most popular items: its cost grows with the cube.
        size: Numbers in the vectors.

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", 2019 (EASE); Ning and Karypis, "SLIM", 2011.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        neighbours: Size = 128,
        ridge: Annotated[float, pydantic.Field(gt=0)] = 200.0,
        most: Annotated[int, pydantic.Field(ge=1, le=20_000)] = 8_000,
        size: Size = 16,
    ) -> None:
        super().__init__(num_users, num_items)
        self.ridge, self.most = ridge, most
        self.weights = nn.Parameter(torch.zeros(num_items + 1, min(neighbours, num_items)))
        self.neighbours: torch.Tensor
        self.register_buffer("neighbours", torch.zeros(self.weights.shape, dtype=torch.int64))
        self.ages = nn.Parameter(torch.ones(_AGES, 1))
        self.touched, self.items = table(num_items, size, spread=0.01), table(num_items, size, spread=0.01)

    def begin(self, *, level: float, users: np.ndarray, items: np.ndarray) -> None:
        """The weights of the regression; see `Recommender`."""
        from scipy.sparse import csr_array  # type: ignore[import-untyped]  # it has no stubs

        super().begin(level=level, users=users, items=items)
        count = min(self.most, self.num_items)
        known = items <= count
        pairs = np.unique(np.stack((users[known], items[known] - 1)), axis=1)
        touches = csr_array((np.ones(pairs.shape[1], np.float32), pairs), (self.num_users + 1, count))
        gram = torch.from_numpy((touches.T @ touches).toarray()) + self.ridge * torch.eye(count)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0)
        kept = weights.abs().topk(min(self.weights.shape[1], count), dim=1).indices
        with torch.no_grad():
            self.weights[1 : count + 1, : kept.shape[1]] = weights.gather(1, kept)
            self.neighbours[1 : count + 1, : kept.shape[1]] = kept + 1

    def forward(self, users: torch.Tensor, recent: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, C] of items int [N, C]."""
        return self.every(users, recent).gather(1, items.long())

    def every(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """See `Recommender`."""
        recent = recent.long()
        there = (recent > 0).float()
        age = torch.cumsum(there, dim=1).clamp(min=1)
        bucket = torch.ceil(torch.log2(age)).clamp(max=_AGES - 1).long()
        weight = self.ages[bucket, 0] * there
        spoken = self.weights[recent] * weight[..., None]
        scores = torch.zeros(recent.shape[0], self.num_items + 1, device=recent.device, dtype=spoken.dtype)
        scores = scores.scatter_add(1, self.neighbours[recent].flatten(1), spoken.flatten(1))
        vector = (self.touched(recent) * weight[..., None]).sum(dim=1)
        return torch.as_tensor(scores + vector @ self.items.weight.T + self.item_bias.weight[:, 0] + self.level)
