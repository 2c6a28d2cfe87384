"""Learning task `image_classification`: one label per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.learning.classification import PROBABILITIES, Classification

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageClassification(Classification):
    """One label per image, uint8 [N, H, W, C].

    Args:
        fitted: Of the extractor ``image``.
        labels: Class names.
        mirror: Average the predictions for an image and its mirror image, in validation and serving. For photos whose
            orientation does not matter; doubles the inference cost.
    """

    features: ClassVar[tuple[str, ...]] = ("image",)
    network_parameters: ClassVar[tuple[str, ...]] = ("input_shape", "num_classes")

    def __init__(self, fitted: Mapping[str, Any], labels: Sequence[str], *, mirror: bool = False) -> None:
        super().__init__(fitted, labels)
        self.mirror = mirror

    def training_rows(self, features: Path) -> Rows:
        """The training split; raises `DataError` if a row has no label."""
        return self.evaluation_rows(features, "train")

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The rows of the split; raises `DataError` if one has no label."""
        rows = super().evaluation_rows(features, split)
        if missing := int((rows.targets < 0).sum()):
            raise DataError(
                f"{missing:,} of {len(rows.targets):,} pictures have no label.",
                where=str(features / split),
                fix="Add the cleaning step `unlabelled`, or choose a source whose folders name labels.",
            )
        return rows

    def network_arguments(self) -> dict[str, Any]:
        """``input_shape`` (height, width, channels) and ``num_classes``."""
        return {
            "input_shape": [self.fitted["height"], self.fitted["width"], self.fitted["channels"]],
            "num_classes": len(self.labels),
        }

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [N, C, H, W] in [0, 1], to be augmented, of stored rows uint8 [N, H, W, C]."""
        from lepton_tasks.models.pictures import pixels

        return pixels(stored)

    def trainable(self, network: nn.Module) -> nn.Module:
        """`network` preceded by normalisation: pixels in [0, 1] -> logits."""
        from lepton_tasks.models.pictures import Normalised

        return Normalised(network, self.fitted["mean"], self.fitted["std"])

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: uint8 [N, H, W, C] -> probabilities float32 [N, K]."""
        from lepton_tasks.models.pictures import PictureClassifier

        return PictureClassifier(self.trainable(network), mirror=self.mirror)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``confusion_matrix.png`` and the `worst` mistakes as ``worst.png``."""
        from lepton_tasks.learning.classification_plots import worst_plot

        mistakes = worst_plot(
            folder / "worst.png", rows.inputs, outputs[PROBABILITIES], rows.targets, self.labels, count=worst
        )
        return [*super().plots(folder, rows, outputs, worst=worst), mistakes]
