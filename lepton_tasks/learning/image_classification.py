"""One label for each picture.

Torch is imported where it is needed, so that a stage that only computes metrics starts without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

# Smallest probability that counts in the loss: float32 softmax gives exact zeros.
_SMALLEST = 1e-7


class ImageClassification:
    """Cross-entropy over the labels of the training data; stored rows are uint8 [N, H, W, C].

    Args:
        mirror: Answer, in validation as when served, with the mean of a picture and its mirror image. For photos, where
            left and right mean nothing; twice the computation of an answer.
    """

    def __init__(self, *, mirror: bool = False) -> None:
        self.mirror = mirror

    def network_arguments(self, fitted: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """``input_shape`` (height, width, channels) and ``num_classes``."""
        return {
            "input_shape": [fitted["height"], fitted["width"], fitted["channels"]],
            "num_classes": len(labels),
        }

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [N, C, H, W] in [0, 1] of stored rows uint8 [N, H, W, C]: what augmentations work on."""
        from lepton_tasks.models.pictures import pixels

        return pixels(stored)

    def targets(self, stored: torch.Tensor, labels: Sequence[str], label_smoothing: float) -> torch.Tensor:
        """Probabilities float32 [N, K] of stored targets int64 [N], which augmentations can mix.

        Source: label smoothing by Szegedy et al., "Rethinking the Inception architecture", 2016.
        """
        from torch.nn import functional

        hard = functional.one_hot(stored, len(labels)).float()
        return hard * (1 - label_smoothing) + label_smoothing / len(labels)

    def trainable(self, network: nn.Module, fitted: Mapping[str, Any]) -> nn.Module:
        """`network` behind the normalisation: pixels in [0, 1] -> logits."""
        from lepton_tasks.models.pictures import Normalised

        return Normalised(network, fitted["mean"], fitted["std"])

    def deployable(self, network: nn.Module, fitted: Mapping[str, Any]) -> nn.Module:
        """What is served: uint8 [N, H, W, C] -> probabilities float32 [N, K]."""
        from lepton_tasks.models.pictures import PictureClassifier

        return PictureClassifier(self.trainable(network, fitted), mirror=self.mirror)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of logits [N, K] and target probabilities [N, K]."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, targets)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the best epoch is chosen by; the larger tuple is the better one."""
        return metrics["accuracy"], -metrics["loss"]

    def metrics(self, outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """Accuracy, F1 averaged over labels, and the mean negative log-likelihood (nats).

        Args:
            outputs: Probabilities float [N, K].
            targets: Indices into `labels`, int [N].
            labels: The K names.
        """
        f1 = per_label(outputs, targets, labels)
        chosen = np.clip(outputs[np.arange(len(targets)), targets], _SMALLEST, 1.0)
        return {
            "accuracy": float((outputs.argmax(1) == targets).mean()),
            "macro_f1": float(np.mean([row["f1"] for row in f1.values()])),
            "loss": float(-np.log(chosen.astype(np.float64)).mean()),
        }

    def details(self, outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
        """Rows, precision, recall and F1 of each label; see `per_label`."""
        return per_label(outputs, targets, labels)

    def right(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Which rows are answered rightly, bool [N]."""
        return np.asarray(outputs.argmax(1) == targets)

    def baseline(self, targets: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
        """The metrics of answering with the share of each label, whatever the picture."""
        share = np.bincount(targets, minlength=len(labels)) / len(targets)
        return self.metrics(np.tile(share, (len(targets), 1)), targets, labels)

    def plots(
        self,
        folder: Path,
        inputs: np.ndarray,
        outputs: np.ndarray,
        targets: np.ndarray,
        labels: Sequence[str],
        *,
        worst: int,
    ) -> list[Path]:
        """``confusion_matrix.png`` and the `worst` mistakes as ``worst.png``."""
        from lepton_tasks.learning.classification_plots import confusion_plot, worst_plot

        return [
            confusion_plot(folder / "confusion_matrix.png", confusion(outputs, targets, len(labels)), labels),
            worst_plot(folder / "worst.png", inputs, outputs, targets, labels, count=worst),
        ]

    def output_codec(self, labels: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The codec that names labels."""
        return "labels", {"labels": list(labels)}


def confusion(outputs: np.ndarray, targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int [K, K]: row = true label, column = predicted label."""
    flat = np.bincount(targets * num_classes + outputs.argmax(1), minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def per_label(outputs: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """``rows, precision, recall, f1`` by label; a ratio with an empty denominator is 0."""
    counts = confusion(outputs, targets, len(labels))
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
