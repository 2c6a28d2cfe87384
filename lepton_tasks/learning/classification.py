"""Shared code of image, text and table classification.

Torch is imported lazily, so that stages that only compute metrics start without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch

PROBABILITIES = "probabilities"

# Smallest probability that counts in the loss: float32 softmax gives exact zeros.
_SMALLEST = 1e-7


class Classification(Task):
    """Cross-entropy over the training labels; predictions are their probabilities, float32 [N, K]."""

    metric: ClassVar[str] = "accuracy"
    loss_of: ClassVar[tuple[str, ...]] = ("classes",)
    smooths: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = (PROBABILITIES,)

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Target probabilities float32 [N, K], which augmentations can mix, of class indices int64 [N].

        Source: label smoothing by Szegedy et al., "Rethinking the Inception architecture", 2016.
        """
        from torch.nn import functional

        hard = functional.one_hot(stored, len(self.labels)).float()
        if label_smoothing == 0:
            return hard
        return hard * (1 - label_smoothing) + label_smoothing / len(self.labels)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of logits [N, K] and target probabilities [N, K]."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, targets)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Accuracy; ties are broken by the lower loss."""
        return metrics["accuracy"], -metrics["loss"]

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Accuracy, F1 averaged over labels, and the mean negative log-likelihood (nats).

        Args:
            outputs: ``probabilities`` float [N, K].
            targets: Indices into the labels, int [N].
        """
        probabilities = outputs[PROBABILITIES]
        f1 = per_label(probabilities, targets, self.labels)
        chosen = np.clip(probabilities[np.arange(len(targets)), targets], _SMALLEST, 1.0)
        return {
            "accuracy": float((probabilities.argmax(1) == targets).mean()),
            "macro_f1": float(np.mean([row["f1"] for row in f1.values()])),
            "loss": float(-np.log(chosen.astype(np.float64)).mean()),
        }

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Rows, precision, recall and F1 of each label; see `per_label`."""
        return per_label(outputs[PROBABILITIES], rows.targets, self.labels)

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """Correctly classified rows, bool [N]."""
        return np.asarray(outputs[PROBABILITIES].argmax(1) == targets)

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """Largest probability of each row, float [N]."""
        return np.asarray(outputs[PROBABILITIES].max(axis=1))

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of always predicting the label frequencies."""
        share = np.bincount(rows.targets, minlength=len(self.labels)) / len(rows.targets)
        return self.metrics({PROBABILITIES: np.tile(share, (len(rows.targets), 1))}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``confusion_matrix.png``."""
        from lepton_tasks.learning.classification_plots import confusion_plot

        counts = confusion(outputs[PROBABILITIES], rows.targets, len(self.labels))
        return [confusion_plot(folder / "confusion_matrix.png", counts, self.labels)]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns label names."""
        return "labels", {"labels": self.labels}


def confusion(probabilities: np.ndarray, targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int [K, K]: row = true label, column = predicted label."""
    flat = np.bincount(targets * num_classes + probabilities.argmax(1), minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def per_label(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """``rows, precision, recall, f1`` by label; a ratio with an empty denominator is 0."""
    counts = confusion(probabilities, targets, len(labels))
    figures: dict[str, dict[str, float]] = {}
    for index, label in enumerate(labels):
        right, rows, said = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
        figures[label] = {
            "rows": rows,
            "precision": right / said if said else 0.0,
            "recall": right / rows if rows else 0.0,
            "f1": 2 * right / (rows + said) if rows + said else 0.0,
        }
    return figures
