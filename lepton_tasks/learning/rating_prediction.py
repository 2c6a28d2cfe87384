"""Learning task `rating_prediction`: the rating a user gives an item.

Torch is imported lazily, so that stages that only compute metrics start without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.learning.histories import touched
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lepton_tasks.models.recommenders import Recommender

VALUE = "value"

_HISTORY = 200
"""Latest items of a user available to a network."""

_MOST = 5_000  # items counted per user


class RatingPrediction(Task):
    """Squared error of ratings; rows are user and item indices int32 [N, 2].

    Args:
        fitted: Of the extractor ``interactions``.
        labels: None.
        scale: Lowest and highest rating; predictions are clamped to it.
    """

    metric: ClassVar[str] = "rmse"
    loss_of: ClassVar[tuple[str, ...]] = ("numbers",)
    features: ClassVar[tuple[str, ...]] = ("interactions",)
    outputs: ClassVar[tuple[str, ...]] = (VALUE,)
    network_parameters: ClassVar[tuple[str, ...]] = ("num_users", "num_items")

    def __init__(
        self, fitted: Mapping[str, Any], labels: Sequence[str], *, scale: tuple[float, float] | None = None
    ) -> None:
        super().__init__(fitted, labels)
        self.scale = scale

    def network_arguments(self) -> dict[str, Any]:
        """``num_users`` and ``num_items`` of the training split."""
        return {"num_users": len(self.fitted["users"]), "num_items": len(self.fitted["items"])}

    def initialise(self, network: nn.Module) -> None:
        """Load the mean rating and the training pairs."""
        from lepton_tasks.data.extractors.interactions import seen_pairs

        users, items = seen_pairs(self.fitted)
        cast("Recommender", network).begin(level=self._mean, users=users, items=items)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Unclamped ratings: clamping would zero the gradient beyond the scale."""
        from lepton_tasks.models.recommending import Ratings

        return Ratings(cast("Recommender", network), touched(self.fitted, most=_HISTORY), None)

    def deployable(self, network: nn.Module) -> nn.Module:
        """Pairs int32 [N, 2] -> ratings float32 [N]."""
        from lepton_tasks.models.recommending import Ratings

        return Ratings(cast("Recommender", network), touched(self.fitted, most=_HISTORY), self.scale)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error of ratings [N]."""
        from torch.nn import functional

        return functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """RMSE and MAE in the unit of the ratings."""
        wrong = outputs[VALUE].astype(np.float64) - targets
        return {"rmse": float(np.sqrt((wrong**2).mean())), "mae": float(np.abs(wrong).mean())}

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Errors by the number of training ratings of the user, from cold to warm, and of the item."""
        from lepton_tasks.learning.recommendation_plots import bins_of

        figures = {}
        for name, count in zip(("users with {} ratings", "items with {} ratings"), self._known(rows), strict=True):
            for label, part in bins_of(count).items():
                own = self.metrics({VALUE: outputs[VALUE][part]}, rows.targets[part])
                figures[name.format(label)] = {"rows": int(part.sum()), **own}
        return figures

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of predicting the mean rating."""
        return self.metrics({VALUE: np.full(len(rows.targets), self._mean)}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``ratings.png`` (predictions by true rating) and ``cold_and_warm.png`` (errors by number of ratings)."""
        from lepton_tasks.learning.recommendation_plots import error_by_count_plot, ratings_plot

        errors = outputs[VALUE].astype(np.float64) - rows.targets
        by = dict(zip(("ratings of the user", "ratings of the item"), self._known(rows), strict=True))
        return [
            ratings_plot(folder / "ratings.png", outputs[VALUE], rows.targets),
            error_by_count_plot(folder / "cold_and_warm.png", errors, by),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns the rating."""
        return "number", {"name": "rating"}

    def _known(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Training ratings of each row's user and item, int [N] each."""
        users = (touched(self.fitted, most=_MOST) > 0).sum(axis=1)
        items = np.concatenate(([0], self.fitted["popularity"]))
        return users[rows.inputs[:, 0]], items[rows.inputs[:, 1]]

    @property
    def _mean(self) -> float:
        mean = self.fitted["mean_rating"]
        return 0.0 if mean is None else float(mean)
