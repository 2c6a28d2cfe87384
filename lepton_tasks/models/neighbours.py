"""Item-based neighbourhood recommender."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pydantic
import torch
from torch import nn

from lepton_tasks.models.recommenders import Recommender, Size, table

_AGES = 8
"""Weights by recency: of the latest item, the 2nd, 3rd to 4th, 5th to 8th, ..., from the 65th on."""

_SHARPNESS = 10.0
"""Initial score factor: converts the regression's fractions to the scale of logits."""

_POPULARITY = 1e-3
"""Weight of an item's log interactions: enough to order items without neighbours."""

_TIES = 1e-4  # of the bias: makes all items distinct


class Neighbours(Recommender):
    """Sum of learned weights between a user's items and their neighbours, by recency.

    The weights come from a ridge regression of each item on all others and stay fixed: trained by gradients, they (and
    additional vectors) memorised the training split. Only the weights by recency are trained. Unknown
    users are served equally well, by their recent items.

    Args:
        num_users: Not used: users are represented by their items.
        num_items: Number of items; indices start at 1.
        count: Neighbours per item, those with the largest weights.
        ridge: Ridge penalty; larger if there is little data per item.
        most: Number of most popular items in the regression: its cost grows with the cube.

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", 2019 (EASE); Ning and Karypis, "SLIM", 2011.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        count: Size = 128,
        ridge: Annotated[float, pydantic.Field(gt=0)] = 200.0,
        most: Annotated[int, pydantic.Field(ge=1, le=20_000)] = 8_000,
    ) -> None:
        super().__init__(num_users, num_items)
        self.ridge, self.most = ridge, most
        self.weights: torch.Tensor
        self.neighbours: torch.Tensor
        self.register_buffer("weights", torch.zeros(num_items + 1, min(count, num_items)))
        self.register_buffer("neighbours", torch.zeros(self.weights.shape, dtype=torch.int64))
        self.ages = nn.Parameter(torch.ones(_AGES, 1))
        self.sharpness = nn.Parameter(torch.tensor([_SHARPNESS]))
        self.item_bias = table(num_items, 1, spread=_TIES).requires_grad_(False)

    def begin(self, *, level: float, users: np.ndarray, items: np.ndarray) -> None:
        """Fit the regression weights; see `Recommender`."""
        from scipy.sparse import csr_array  # type: ignore[import-untyped]  # it has no stubs

        super().begin(level=level, users=users, items=items)
        most = min(self.most, self.num_items)
        with torch.no_grad():
            touches_of = np.bincount(items, minlength=self.num_items + 1)
            self.item_bias.weight[1:, 0] += _POPULARITY * torch.from_numpy(np.log1p(touches_of[1:])).float()
        known = items <= most
        pairs = np.unique(np.stack((users[known], items[known] - 1)), axis=1)
        touches = csr_array((np.ones(pairs.shape[1], np.float32), pairs), (self.num_users + 1, most))
        gram = torch.from_numpy((touches.T @ touches).toarray()) + self.ridge * torch.eye(most)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0)
        kept = weights.abs().topk(min(self.weights.shape[1], most), dim=1).indices
        with torch.no_grad():
            self.weights[1 : most + 1, : kept.shape[1]] = weights.gather(1, kept)
            self.neighbours[1 : most + 1, : kept.shape[1]] = kept + 1

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
        return torch.as_tensor(scores * self.sharpness + self.item_bias.weight[:, 0] + self.level)
