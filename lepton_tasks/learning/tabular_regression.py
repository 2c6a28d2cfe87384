"""Learning task `tabular_regression`: one number per table row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.learning.tabular import Tabular

if TYPE_CHECKING:
    import torch
    from torch import nn

VALUE = "value"


class TabularRegression(Tabular):
    """Squared error of standardised targets; predictions are in the column's unit.

    Args:
        fitted: Of the extractor ``table``.
        labels: Empty.

    Raises:
        ConfigError: the target column contains classes.
    """

    metric: ClassVar[str] = "rmse"
    outputs: ClassVar[tuple[str, ...]] = (VALUE,)
    loss_of: ClassVar[tuple[str, ...]] = ("numbers",)
    learns_numbers: ClassVar[bool] = True

    def __init__(self, fitted: Mapping[str, Any], labels: Sequence[str]) -> None:
        super().__init__(fitted, labels)
        if "target" not in fitted:
            raise ConfigError(
                f"the labels are {len(labels)} classes, where regression needs fractions.",
                where="data.label",
                fix="Convert the column to `float` with the step `types`, or take `tabular_classification`.",
            )
        self.mean, self.std = float(fitted["target"]["mean"]), float(fitted["target"]["std"])

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def answer(self) -> nn.Module:
        """Convert to the column's unit."""
        from lepton_tasks.models.tables import Scaled

        return Scaled(self.mean, self.std)

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Scaled numbers float32 [N, 1] of stored ones, float32 [N]."""
        return ((stored - self.mean) / self.std)[:, None]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error of scaled numbers [N, 1]."""
        from torch.nn import functional

        return functional.mse_loss(outputs, targets)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """RMSE and MAE in the column's unit, and the share of explained variance."""
        wrong = outputs[VALUE].astype(np.float64) - targets
        spread = float(np.square(targets - targets.mean(dtype=np.float64)).mean())
        squared = float(np.square(wrong).mean())
        return {
            "rmse": squared**0.5,
            "mae": float(np.abs(wrong).mean()),
            "r2": 1 - squared / spread if spread else 0.0,
        }

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of predicting the training mean."""
        return self.metrics({VALUE: np.full(len(rows.targets), self.mean)}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``residuals.png``."""
        from lepton_tasks.learning.regression_plots import residual_plot

        return [residual_plot(folder / "residuals.png", outputs[VALUE], rows.targets)]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns the number."""
        return "number", {}
