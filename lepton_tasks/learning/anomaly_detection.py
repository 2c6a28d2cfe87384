"""Learning task `anomaly_detection`: reconstruction error of an autoencoder, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pydantic

from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.data.feature_arrays import open_inputs
from lepton_tasks.learning.curves import auc
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

SCORE, THRESHOLD, ANOMALY, ERRORS = "score", "threshold", "is_anomaly", "errors"

_CALIBRATED = 20_000  # training rows used to set the threshold
_DISTURBED = 512  # rows of a split that are also evaluated with a disturbance


class AnomalyDetection(Task):
    """Images or series windows with a high reconstruction error; trained on mostly normal rows.

    The score of a row is the mean squared error of its worst cell (8 x 8 pixels, or 8 steps), in units of the training
    rows' spread; the threshold is a quantile of the training rows' scores, part of the graph.

    There are no labels, so some rows of each split are also evaluated with a disturbance: a
    single-colour patch in an image, a spike in a series. This shows whether such anomalies are found, not others.

    Args:
        fitted: Of the extractor ``image`` or ``windows``.
        labels: Not used.
        quantile: Share of the training rows that counts as normal.
        spike: Height of the spike, in standard deviations of its column.
    """

    metric: ClassVar[str] = "loss"
    features: ClassVar[tuple[str, ...]] = ("image", "windows")
    outputs: ClassVar[tuple[str, ...]] = (SCORE, THRESHOLD, ANOMALY, ERRORS)
    network_parameters: ClassVar[tuple[str, ...]] = ("sample_shape",)

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        quantile: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.99,
        spike: Annotated[float, pydantic.Field(gt=0)] = 3.0,
    ) -> None:
        super().__init__(fitted, labels)
        self.quantile, self.spike = quantile, spike
        self.pictures = "height" in fitted

    def network_arguments(self) -> dict[str, Any]:
        """``sample_shape``: height, width, channels; or steps, numbers."""
        names = ("height", "width", "channels") if self.pictures else ("window", "width")
        return {"sample_shape": [self.fitted[name] for name in names]}

    def calibrate(self, network: nn.Module, rows: Rows) -> None:
        """Set the threshold to the quantile of the training rows' scores."""
        from lepton_tasks.models.inference import predict

        inputs = rows.inputs[:: -(-len(rows.inputs) // _CALIBRATED)]
        scores = predict(self.deployable(network), inputs, self.outputs)[SCORE]
        network.threshold.fill_(float(np.quantile(scores, self.quantile)))  # type: ignore[operator]  # a buffer

    def training_rows(self, features: Path) -> Rows:
        """The rows of the training split; the targets are 0."""
        inputs, _ = open_inputs(features, "train")
        return Rows(inputs, np.zeros(len(inputs), np.int64))

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The rows of the split, target 0, and then disturbed copies of some of them, target 1."""
        inputs, _ = open_inputs(features, split)
        chosen = np.linspace(0, len(inputs) - 1, min(len(inputs), _DISTURBED)).astype(np.int64)
        disturbed = self._disturbed(np.array(inputs[chosen]))
        targets = np.repeat(np.array([0, 1], np.int64), [len(inputs), len(disturbed)])
        return Rows(np.concatenate([inputs, disturbed]), targets)

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Samples float32 [N, channels, *sides]; images as pixels in [0, 1], to be augmented."""
        from lepton_tasks.models.autoencoder import channels_first

        return channels_first(stored)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Samples -> reconstruction error per cell."""
        from lepton_tasks.models.autoencoder import CellErrors

        if self.pictures:
            return CellErrors(network, self.fitted["mean"], self.fitted["std"], sides=2)
        width = self.fitted["width"]
        return CellErrors(network, [0.0] * width, [1.0] * width, sides=1)

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: stored samples -> score, threshold, whether the score exceeds it, error per cell."""
        from lepton_tasks.models.autoencoder import Watch

        return Watch(self.trainable(network))  # type: ignore[arg-type]  # it is `CellErrors`

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean of the cell errors [N, ...]; targets are ignored."""
        return outputs.mean()

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """``loss``: mean error of the undisturbed rows; ``flagged``: their share above the threshold.

        ``disturbed_auc``: how often a disturbed row scores higher than an undisturbed one (0.5 without disturbed rows),
        and ``disturbed_recall``: the share of disturbed rows detected.
        """
        put_in = targets == 1
        area = auc(outputs[SCORE], put_in)
        found = outputs[ANOMALY][put_in]
        return {
            "loss": float(outputs[ERRORS][~put_in].mean(dtype=np.float64)),
            "flagged": float(outputs[ANOMALY][~put_in].mean()),
            "disturbed_auc": area if np.isfinite(area) else 0.5,
            "disturbed_recall": float(found.mean()) if len(found) else 0.0,
        }

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of reconstructing the training mean; the threshold is the quantile of the evaluated rows."""
        import torch
        from torch import nn

        from lepton_tasks.models.inference import predict

        class Mean(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.zero = nn.Parameter(torch.zeros(()))
                self.register_buffer("threshold", torch.tensor(float("inf")))

            def forward(self, samples: torch.Tensor) -> torch.Tensor:
                return samples * self.zero

        network = Mean()
        self.calibrate(network, Rows(rows.inputs[rows.targets == 0], rows.targets))
        return self.metrics(predict(self.deployable(network), rows.inputs, self.outputs), rows.targets)

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Scores of undisturbed and disturbed rows, and the threshold."""
        parts = {"as they are": rows.targets == 0, "disturbed": rows.targets == 1}
        return {
            name: {
                "rows": int(mine.sum()),
                "median_score": float(np.median(outputs[SCORE][mine])),
                "p95_score": float(np.quantile(outputs[SCORE][mine], 0.95)),
                "threshold": float(outputs[THRESHOLD][0]),
                "flagged": float(outputs[ANOMALY][mine].mean()),
            }
            for name, mine in parts.items()
            if mine.any()
        }

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``scores.png``, ``roc.png``, and the `worst` undisturbed rows by score as ``worst.png``."""
        from lepton_tasks.learning.anomaly_plots import scores_plot, worst_pictures_plot, worst_windows_plot
        from lepton_tasks.learning.probability_plots import roc_plot

        put_in, scores = rows.targets == 1, outputs[SCORE]
        order = np.argsort(-scores[~put_in], kind="stable")[:worst]
        draw = worst_pictures_plot if self.pictures else worst_windows_plot
        made = [
            scores_plot(folder / "scores.png", scores[~put_in], scores[put_in], float(outputs[THRESHOLD][0])),
            draw(folder / "worst.png", rows.inputs[order], scores[order], outputs[ERRORS][order]),
        ]
        if put_in.any():
            made.append(roc_plot(folder / "roc.png", {"something put in": scores}, {"something put in": put_in}))
        return made

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns the position of the worst cell."""
        from lepton_tasks.codecs.anomaly import CELL

        sides = self.network_arguments()["sample_shape"][:-1]
        return "anomaly", {"sides": sides, "cell": CELL}

    def _disturbed(self, rows: np.ndarray) -> np.ndarray:
        """Add a disturbance to each row; deterministic."""
        chance = np.random.default_rng(0)
        for row in rows:
            if self.pictures:
                sides = [max(2, side // int(chance.integers(5, 11))) for side in row.shape[:2]]
                top, left = (int(chance.integers(row.shape[axis] - sides[axis] + 1)) for axis in (0, 1))
                row[top : top + sides[0], left : left + sides[1]] = chance.integers(0, 256, row.shape[2])
            else:
                step, column = chance.integers(len(row)), chance.integers(len(self.fitted["columns"]))
                row[step, column] += self.spike * chance.choice([-1, 1])
        return rows
