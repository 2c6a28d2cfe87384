"""Learning task `rating_prediction`: the rating a user gives an item.

Torch is imported where it is needed, so that a stage that only computes metrics starts without it.
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
"""Items of a user that a network may look at, the latest ones."""

_MOST = 5_000  # items of a user that are counted


class RatingPrediction(Task):
    """Squared error of ratings; rows are user and item indices int32 [N, 2].

    Args:
        fitted: Of the extractor ``interactions``.
        labels: None.
        scale: The lowest and the highest rating there is; what is answered stays between.
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
        """``num_users`` and ``num_items``, as training knows them."""
        return {"num_users": len(self.fitted["users"]), "num_items": len(self.fitted["items"])}

    def initialise(self, network: nn.Module) -> None:
        """The mean rating, and the pairs of training."""
        from lepton_tasks.data.extractors.interactions import seen_pairs

        users, items = seen_pairs(self.fitted)
        cast("Recommender", network).begin(level=self._mean, users=users, items=items)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Ratings as the network gives them: beyond the scale there would be nothing to learn from."""
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
        """Root of the mean squared error, and the mean absolute error, in the unit of the ratings."""
        wrong = outputs[VALUE].astype(np.float64) - targets
        return {"rmse": float(np.sqrt((wrong**2).mean())), "mae": float(np.abs(wrong).mean())}

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """The errors by how much the user has rated in training, from cold to warm, and by how often the item was."""
        from lepton_tasks.learning.recommendation_plots import bins_of

        figures = {}
        for name, count in zip(("users with {} ratings", "items with {} ratings"), self._known(rows), strict=True):
            for label, part in bins_of(count).items():
                own = self.metrics({VALUE: outputs[VALUE][part]}, rows.targets[part])
                figures[name.format(label)] = {"rows": int(part.sum()), **own}
        return figures

    def baseline(self, rows: Rows) -> dict[str, float]:
        """The metrics of the mean rating."""
        return self.metrics({VALUE: np.full(len(rows.targets), self._mean)}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``ratings.png`` (answers by what was rated) and ``cold_and_warm.png`` (errors by how much is known)."""
        from lepton_tasks.learning.recommendation_plots import error_by_count_plot, ratings_plot

        errors = outputs[VALUE].astype(np.float64) - rows.targets
        by = dict(zip(("ratings of the user", "ratings of the item"), self._known(rows), strict=True))
        return [
            ratings_plot(folder / "ratings.png", outputs[VALUE], rows.targets),
            error_by_count_plot(folder / "cold_and_warm.png", errors, by),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """The codec that gives the rating."""
        return "number", {"name": "rating"}

    def _known(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """How often the user and how often the item of each row were met in training, int [N] each."""
        users = (touched(self.fitted, most=_MOST) > 0).sum(axis=1)
        items = np.concatenate(([0], self.fitted["popularity"]))
        return users[rows.inputs[:, 0]], items[rows.inputs[:, 1]]

    @property
    def _mean(self) -> float:
        mean = self.fitted["mean_rating"]
        return 0.0 if mean is None else float(mean)
