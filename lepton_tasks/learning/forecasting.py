"""Learning task `forecasting`: the next values of a time series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pydantic

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

FORECAST = "forecast"


class Forecasting(Task):
    """Scaled windows float32 [N, window, D] -> targets float32 [N, horizon] in the target's unit.

    Every run is compared with persistence, which repeats the last observed value.

    Args:
        fitted: Of the extractor ``windows``.
        labels: Empty.
        season: Period of the series in rows, e.g. 24 hours; adds a comparison with the value one season before to the
            model card.
    """

    metric: ClassVar[str] = "mae"
    features: ClassVar[tuple[str, ...]] = ("windows",)
    outputs: ClassVar[tuple[str, ...]] = (FORECAST,)
    network_parameters: ClassVar[tuple[str, ...]] = ("window", "inputs", "horizon")
    loss_of: ClassVar[tuple[str, ...]] = ("numbers",)

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        season: Annotated[int, pydantic.Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(fitted, labels)
        self.mean, self.std = float(fitted["target_mean"]), float(fitted["target_std"])
        if season is not None and season > fitted["window"]:
            raise ConfigError(
                f"a season of {season} rows is longer than the window of {fitted['window']}.",
                where="task.params.season",
                fix="Set `features.params.window` to at least as many.",
            )
        self.season = season

    def network_arguments(self) -> dict[str, Any]:
        """``window`` (rows), ``inputs`` (values per row), ``horizon`` (rows)."""
        return {"window": self.fitted["window"], "inputs": self.fitted["width"], "horizon": self.fitted["horizon"]}

    def initialise(self, network: nn.Module) -> None:
        """Initialise a network with a linear path `direct` from the last row as persistence."""
        import torch

        direct = getattr(network, "direct", None)
        if isinstance(direct, torch.nn.Linear) and self._column is not None:
            with torch.no_grad():
                direct.weight.zero_()[:, self._column] = self.fitted["std"][self._column] / self.std

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Scaled targets, float32 [N, horizon]."""
        return (stored - self.mean) / self.std

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: scaled windows -> float32 [N, horizon] in the target's unit."""
        from lepton_tasks.models.forecasters import Forecast

        return Forecast(network, self.mean, self.std)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean absolute error of scaled values [N, horizon], robust to large values."""
        from torch.nn import functional

        return functional.l1_loss(outputs, targets)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """MAE and RMSE in the target's unit, over all steps and at the last step."""
        wrong = outputs[FORECAST].astype(np.float64) - targets
        return {
            "mae": float(np.abs(wrong).mean()),
            "rmse": float(np.square(wrong).mean() ** 0.5),
            "last_mae": float(np.abs(wrong[:, -1]).mean()),
            "last_rmse": float(np.square(wrong[:, -1]).mean() ** 0.5),
        }

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of persistence; if the target's past is not an input, of the training mean."""
        return self.metrics({FORECAST: self._persistence(rows)}, rows.targets)

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Per step ahead, the forecast's errors and the mean absolute errors of the baselines.

        ``gain`` is the share of persistence's mean absolute error that the forecast avoids.
        """
        errors = {name: np.abs(said - rows.targets).mean(axis=0) for name, said in self._rivals(rows).items()}
        wrong = outputs[FORECAST].astype(np.float64) - rows.targets
        return {
            f"step {step + 1}": {
                "mae": float(np.abs(wrong[:, step]).mean()),
                "rmse": float(np.square(wrong[:, step]).mean() ** 0.5),
                **{f"{name}_mae": float(error[step]) for name, error in errors.items()},
                "gain": float(1 - np.abs(wrong[:, step]).mean() / max(errors["persistence"][step], 1e-12)),
            }
            for step in range(wrong.shape[1])
        }

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``steps.png``, ``forecasts.png`` and ``last_step.png``."""
        from lepton_tasks.learning.forecast_plots import forecasts_plot, last_step_plot, steps_plot

        said, rivals = outputs[FORECAST], self._rivals(rows)
        return [
            steps_plot(folder / "steps.png", {"forecast": said, **rivals}, rows.targets),
            forecasts_plot(folder / "forecasts.png", self._past(rows), said, rows.targets),
            last_step_plot(folder / "last_step.png", said[:, -1], rows.targets[:, -1]),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns the target's name and the time step."""
        return "forecast", {"target": self.fitted["target"], "step": self.fitted["step_seconds"]}

    def _past(self, rows: Rows) -> np.ndarray | None:
        """The target's values in the window, float [N, window]; None if they are not an input."""
        if (column := self._column) is None:
            return None
        past: np.ndarray = rows.inputs[:, :, column] * self.fitted["std"][column] + self.fitted["mean"][column]
        return past

    @property
    def _column(self) -> int | None:
        """Column index of the target; None if its past is not an input."""
        target, columns = self.fitted["target"], list(self.fitted["columns"])
        return columns.index(target) if target in columns else None

    def _persistence(self, rows: Rows) -> np.ndarray:
        past = self._past(rows)
        last = np.full((len(rows.targets), 1), self.mean) if past is None else past[:, -1:]
        return np.repeat(last, rows.targets.shape[1], axis=1)

    def _rivals(self, rows: Rows) -> dict[str, np.ndarray]:
        """Predictions of simple baselines, float [N, horizon] each."""
        past, found = self._past(rows), {"persistence": self._persistence(rows)}
        if self.season is not None and past is not None:
            steps = np.arange(rows.targets.shape[1]) % self.season
            found["season_before"] = past[:, past.shape[1] - self.season + steps]
        return found
