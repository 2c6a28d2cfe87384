"""Learning task `item_recommendation`: the next items for a user.

Torch is imported lazily, so that stages that only compute metrics start without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import numpy as np
import pydantic

from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.data.split import SPLITS
from lepton_tasks.learning.histories import before, interactions, touched
from lepton_tasks.learning.ranking import CANDIDATES, TOP, ranks
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lepton_tasks.models.recommenders import Recommender

_MOST_TOUCHED = 5_000
"""Latest items of a user that are not recommended again."""

_SEED = 20_171
"""Seed of the candidates: fixed, so that models are comparable."""

Count = Annotated[int, pydantic.Field(ge=1, le=1_000)]


class ItemRecommendation(Task):
    """Predict each interaction from the user's history, against freshly sampled negatives.

    Evaluation ranks each user's last interaction among 100 items that the user has never interacted with.
    Serving returns the best of all items that the user has not interacted with.

    Args:
        fitted: Of the extractor ``visits``.
        labels: None.
        history: Number of the user's latest items passed to the network.
        negatives: Negatives sampled per interaction.
        answers: Number of recommended items.
    """

    metric: ClassVar[str] = f"hit_rate_{TOP}"
    loss_of: ClassVar[tuple[str, ...]] = ("rankings",)
    features: ClassVar[tuple[str, ...]] = ("visits",)
    outputs: ClassVar[tuple[str, ...]] = ("items", "scores")
    network_parameters: ClassVar[tuple[str, ...]] = ("num_users", "num_items")
    replayable: ClassVar[bool] = False

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        history: Count = 50,
        negatives: Count = 16,
        answers: Count = 10,
    ) -> None:
        super().__init__(fitted, labels)
        self.history, self.negatives, self.answers = history, negatives, answers

    def network_arguments(self) -> dict[str, Any]:
        """``num_users`` and ``num_items`` of the training split."""
        return {"num_users": len(self.fitted["users"]), "num_items": len(self.fitted["items"])}

    def initialise(self, network: nn.Module) -> None:
        """Load the training pairs."""
        from lepton_tasks.data.extractors.interactions import seen_pairs

        users, items = seen_pairs(self.fitted)
        cast("Recommender", network).begin(level=0.0, users=users, items=items)

    def training_rows(self, features: Path) -> Rows:
        """User, earlier items and next item: int32 [N, 1 + history + 1]; targets are ignored."""
        pairs, _ = interactions(features, "train")
        known = np.arange(len(pairs))
        inputs = np.concatenate((pairs[:, :1], before(pairs, known, length=self.history), pairs[:, 1:]), axis=1)
        return Rows(inputs.astype(np.int32), np.zeros(len(pairs), np.float32))

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The last interaction of each user in the split.

        Returns:
            Inputs int32 [N, 1 + history + 101]: user, earlier items (including training and earlier splits), and the
            candidates, the correct one first, or 0 if it is not in training. Targets int64 [N, 2]: the user's number
            of training items, and the correct item.
        """
        from lepton_tasks.data.extractors.interactions import codes_of, draw_negatives

        splits = SPLITS[: SPLITS.index(split) + 1]
        pairs, of = interactions(features, *splits)
        users = pairs[:, 0]
        last = (of == len(splits) - 1) & np.append((users[1:] != users[:-1]) | (users[:-1] == 0), True)
        rows = np.flatnonzero(last)
        every = pairs if split == "test" else interactions(features, *SPLITS)[0]
        items = len(self.fitted["items"])
        seen = np.unique(codes_of(every[:, 0], every[:, 1], items))
        drawn = draw_negatives(users[rows], seen, items=items, count=CANDIDATES, seed=_SEED)
        recent = before(pairs, rows, length=self.history)
        count = (touched(self.fitted, most=_MOST_TOUCHED) > 0).sum(axis=1)[users[rows]]
        inputs = np.concatenate((pairs[rows, :1], recent, pairs[rows, 1:], drawn), axis=1).astype(np.int32)
        return Rows(inputs, np.stack((count, pairs[rows, 1]), axis=1).astype(np.int64))

    def trainable(self, network: nn.Module) -> nn.Module:
        """Stored rows -> scores float32 [N, 1 + negatives], the correct item first."""
        from lepton_tasks.data.extractors.interactions import codes_of, seen_pairs
        from lepton_tasks.models.recommending import Sampled

        pairs = np.sort(codes_of(*seen_pairs(self.fitted), len(self.fitted["items"])))
        return Sampled(cast("Recommender", network), pairs, self.negatives)

    def evaluable(self, network: nn.Module) -> nn.Module:
        """Inputs of `evaluation_rows` -> the candidates and their scores."""
        from lepton_tasks.models.recommending import Candidates

        return Candidates(cast("Recommender", network), self._popularity, self.history)

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: user, recent items -> best items, scores."""
        from lepton_tasks.models.recommending import BestItems

        table = touched(self.fitted, most=_MOST_TOUCHED)
        return BestItems(cast("Recommender", network), self._popularity, table, self.history, self.answers)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the correct item among the negatives, from scores [N, 1 + negatives]."""
        from lepton_tasks.models.losses import SampledSoftmax

        return SampledSoftmax().forward(outputs, targets)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Hit rate of the correct item in the top 10 of 101 candidates, NDCG and MRR.

        Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002.
        """
        rank = ranks(outputs["scores"])
        return {
            f"hit_rate_{TOP}": float((rank < TOP).mean()),
            f"ndcg_{TOP}": float(np.where(rank < TOP, 1 / np.log2(rank + 2), 0).mean()),
            "mrr": float((1 / (rank + 1)).mean()),
        }

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """NDCG: it distinguishes epochs with equal hit rates."""
        return (metrics[f"ndcg_{TOP}"],)

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Metrics by user activity, from cold to warm, and by popularity of the correct item."""
        from lepton_tasks.learning.ranking import parts_of

        figures = {}
        for name, part in parts_of(rows.targets, self._popularity).items():
            answers = {key: values[part] for key, values in outputs.items()}
            figures[name] = {"rows": int(part.sum()), **self.metrics(answers, rows.targets[part])}
        return figures

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """Whether the correct item is in the top 10, bool [N]."""
        return np.asarray(ranks(outputs["scores"]) < TOP)

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of ranking by popularity, which item indices follow."""
        return self.metrics({"scores": self._by_popularity(rows)}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``hit_rate.png`` (by activity and popularity) and ``long_tail.png`` (recommendations by popularity)."""
        from lepton_tasks.learning.recommendation_plots import hit_rate_plot, long_tail_plot

        by_popularity = self._by_popularity(rows)
        hits = {name: ranks(s) < TOP for name, s in (("model", outputs["scores"]), ("popularity", by_popularity))}
        candidates = np.asarray(rows.inputs[:, 1 + self.history :])
        count = np.concatenate(([0], self._popularity))[rows.targets[:, 1]]
        by = {"items the user has touched": rows.targets[:, 0], "interactions of the right item": count}
        return [
            hit_rate_plot(folder / "hit_rate.png", hits, by),
            long_tail_plot(folder / "long_tail.png", candidates, outputs["scores"], items=len(self._popularity)),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns item names."""
        return "items", {"items": self.fitted["items"]}

    @property
    def _popularity(self) -> np.ndarray:
        return np.asarray(self.fitted["popularity"], np.int64)

    def _by_popularity(self, rows: Rows) -> np.ndarray:
        candidates = np.asarray(rows.inputs[:, 1 + self.history :])
        return np.where(candidates > 0, -candidates.astype(np.float64), -np.inf)
