"""Base class of learning tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_tasks.core.metrics import direction
from lepton_tasks.core.protocols import Outputs, Phase, Rows, Validation
from lepton_tasks.data.feature_arrays import open_split

if TYPE_CHECKING:
    import torch
    from torch import nn


class Task:
    """Defaults of a learning task: stored rows are used unchanged in training, evaluation and serving.

    Args:
        fitted: Values fitted by the feature extractor on the training split.
        labels: Class names; empty without classes.

    Subclasses define ``metric``, ``features``, ``outputs``, ``network_parameters``, ``network_arguments``, ``loss``,
    ``metrics``, ``baseline`` and ``output_codec``, and override the defaults as needed.
    """

    metric: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]
    network_parameters: ClassVar[tuple[str, ...]]
    loss_of: ClassVar[tuple[str, ...]] = ()
    boxes: ClassVar[bool] = False
    smooths: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    def __init__(self, fitted: Mapping[str, Any], labels: Sequence[str]) -> None:
        self.fitted, self.labels = fitted, list(labels)

    def initialise(self, network: nn.Module) -> None:
        """Do nothing."""

    def calibrate(self, network: nn.Module, rows: Rows) -> None:
        """Do nothing."""

    def training_rows(self, features: Path) -> Rows:
        """The stored rows of the training split."""
        return open_split(features, "train")

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The stored rows of the split."""
        return open_split(features, split)

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """The stored inputs."""
        return stored

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """The stored targets."""
        return stored

    def trainable(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def embedded(self, network: nn.Module) -> nn.Module:
        """Same as `trainable`."""
        return self.trainable(network)

    def evaluable(self, network: nn.Module) -> nn.Module:
        """Same as `deployable`."""
        return self.deployable(network)

    def validation(self, network: nn.Module, features: Path) -> Validation:
        """Same as on the test split."""
        rows, metrics = self.evaluation_rows(features, "validation"), self.metrics  # type: ignore[attr-defined]  # subclass
        return Validation(rows, self.evaluable(network), self.outputs, metrics)

    def deployable(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def phases(self, network: nn.Module) -> Sequence[Phase]:
        """None: one loss for all parameters."""
        return ()

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The task's main metric, negated if lower is better."""
        return (metrics[self.metric] * direction(self.metric),)

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """None."""
        return {}

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """None: correctness is undefined."""
        return None

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """Ones."""
        return np.ones(len(next(iter(outputs.values()))))

    def epoch_plot(self, path: Path, rows: Rows, outputs: Outputs) -> None:
        """Draw nothing."""

    def input_codec(self) -> tuple[str, dict[str, Any]] | None:
        """None: use the feature extractor's codec."""
        return None

    def requests(self, rows: Rows) -> list[bytes] | None:
        """None: use the feature extractor's requests."""
        return None

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """None."""
        return []

    def network_plots(self, folder: Path, network: nn.Module, rows: Rows) -> list[Path]:
        """None."""
        return []
