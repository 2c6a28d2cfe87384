"""Wrap recommenders: negatives in training, candidates in evaluation, top items in serving."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from lepton_tasks.models.recommenders import Recommender

_DRAWS = 4
"""Resampling rounds for negatives the user interacted with: after a quarter of all items, 1 in 250 remains."""


class Ratings(nn.Module):
    """Pairs of user and item -> the rating.

    Args:
        network: The recommender.
        touched: int [users + 1, L], each user's items, newest first; padded with 0.
        scale: Lowest and highest rating, to clamp predictions; None for raw outputs.
    """

    touched: torch.Tensor

    def __init__(self, network: Recommender, touched: np.ndarray, scale: tuple[float, float] | None) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.register_buffer("touched", torch.from_numpy(touched), persistent=False)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Ratings float32 [N] of pairs int [N, 2]."""
        users, items = pair[:, 0].long(), pair[:, 1:].long()
        rating: torch.Tensor = self.network(users, self.touched[users], items)[:, 0]
        return rating if self.scale is None else rating.clamp(*self.scale)


class Sampled(nn.Module):
    """Scores of the next item and of negatives sampled uniformly from items new to the user.

    Args:
        network: The recommender.
        pairs: int64 [P], sorted codes ``user * (items + 1) + item`` of all interactions.
        negatives: Number of negatives.
    """

    pairs: torch.Tensor

    def __init__(self, network: Recommender, pairs: np.ndarray, negatives: int) -> None:
        super().__init__()
        self.network, self.negatives = network, negatives
        self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores float32 [N, 1 + negatives], the next item first.

        Args:
            rows: int [N, 1 + L + 1], user, earlier items, newest first, and the next item.
        """
        rows = rows.long()
        users, recent, wanted = rows[:, 0], rows[:, 1:-1], rows[:, -1:]
        items = self.network.num_items
        drawn = torch.randint(1, items + 1, (len(rows), self.negatives), device=rows.device)
        for _ in range(_DRAWS):
            again = torch.randint(1, items + 1, drawn.shape, device=rows.device)
            drawn = torch.where(self._touched(users, drawn), again, drawn)
        return torch.as_tensor(self.network(users, recent, torch.cat((wanted, drawn), dim=1)))

    def _touched(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        codes = users[:, None] * (self.network.num_items + 1) + items
        at = torch.searchsorted(self.pairs, codes).clamp(max=len(self.pairs) - 1)
        return self.pairs[at] == codes


class Ranking(nn.Module):
    """Scores in evaluation and serving: the network's, or popularity for unknown users.

    Args:
        network: The recommender.
        popularity: Interactions of each item in training, [items], descending.
    """

    popularity: torch.Tensor

    def __init__(self, network: Recommender, popularity: np.ndarray) -> None:
        super().__init__()
        self.network = network
        count = len(popularity)
        falling = (popularity + np.arange(count, 0, -1) / (count + 1)) / (popularity.max(initial=0) + 1)
        shares = torch.from_numpy(np.concatenate([[0.0], falling]).astype(np.float32))
        self.register_buffer("popularity", shares, persistent=False)

    def known(self, users: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
        """Whether anything is known of the user, bool [N, 1]."""
        return ((users > 0) | (recent > 0).any(dim=1))[:, None]


class Candidates(Ranking):
    """Evaluation graph: scores of the candidates of each row.

    Args:
        network: The recommender.
        popularity: As in `Ranking`.
        history: Number of earlier items in a row.
    """

    def __init__(self, network: Recommender, popularity: np.ndarray, history: int) -> None:
        super().__init__(network, popularity)
        self.history = history

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The candidates int32 [N, C] and their scores float32 [N, C], minus infinity for 0.

        Args:
            rows: int [N, 1 + history + C], user, earlier items, newest first, and the candidates.
        """
        rows = rows.long()
        users, recent, items = rows[:, 0], rows[:, 1 : 1 + self.history], rows[:, 1 + self.history :]
        scores = torch.where(self.known(users, recent), self.network(users, recent, items), self.popularity[items])
        return items.int(), scores.masked_fill(items == 0, -torch.inf)


class BestItems(Ranking):
    """Serving graph: the best items new to the user.

    Args:
        network: The recommender.
        popularity: As in `Ranking`.
        touched: int [users + 1, S], each user's items in training, newest first; padded with 0.
        history: Number of items passed to the network.
        count: Number of recommended items.
    """

    touched: torch.Tensor

    def __init__(
        self, network: Recommender, popularity: np.ndarray, touched: np.ndarray, history: int, count: int
    ) -> None:
        super().__init__(network, popularity)
        self.history, self.count = history, min(count, network.num_items)
        self.register_buffer("touched", torch.from_numpy(touched), persistent=False)

    def forward(self, visitor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items int32 [N, count] and their scores float32 [N, count], best first; padded with 0 and -inf.

        Args:
            visitor: int [N, 1 + R], user, and recent items since training, newest first; padded with 0.
        """
        visitor = visitor.long()
        users, lately = visitor[:, 0], visitor[:, 1:]
        before = self.touched[users].long()
        recent = torch.cat((lately, before[:, : self.history]), dim=1)
        scores = torch.where(self.known(users, recent), self.network.every(users, recent), self.popularity)
        gone = torch.zeros_like(scores).scatter(1, torch.cat((lately, before), dim=1), 1.0)
        gone[:, 0] = 1.0
        best = scores.masked_fill(gone > 0, -torch.inf).topk(self.count, dim=1)
        return torch.where(torch.isinf(best.values), 0, best.indices).int(), best.values
