"""Learning task `object_detection`: boxes with class and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pydantic

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.learning.average_precision import AveragePrecision, average_precision
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

BOXES, SCORES, KINDS = "boxes", "scores", "kinds"
NOTHING, UNSEEN = -1, -2
"""In place of a class: no box, and an image that was not annotated."""
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NAMED = 12  # classes with a metric of their own; the details have all

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class ObjectDetection(Task):
    """Boxes in images uint8 [N, H, W, C]; targets float32 [N, M, 5]: class and sides in pixels.

    Args:
        fitted: Of the extractor ``image``, of a source with boxes.
        labels: Class names.
        most: Maximum number of boxes per image.
        least: Minimum score of returned boxes; metrics also count lower ones.
        overlap: IoU threshold of non-maximum suppression within a class.
        sides: Weight of the box loss relative to the classification loss.

    Source: Zhou et al., "Objects as points", 2019, with boxes learned around each centre as Liu et al., "TTFNet", 2020.
    """

    metric: ClassVar[str] = "map50"
    features: ClassVar[tuple[str, ...]] = ("image",)
    outputs: ClassVar[tuple[str, ...]] = (BOXES, SCORES, KINDS)
    network_parameters: ClassVar[tuple[str, ...]] = ("input_shape", "num_kinds")
    boxes: ClassVar[bool] = True

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        most: Annotated[int, pydantic.Field(ge=1, le=1000)] = 100,
        least: Share = 0.3,
        overlap: Share = 0.5,
        sides: Annotated[float, pydantic.Field(gt=0)] = 5.0,
    ) -> None:
        super().__init__(fitted, labels)
        self.most, self.least, self.overlap, self.sides = most, least, overlap, sides

    def network_arguments(self) -> dict[str, Any]:
        """``input_shape`` (height, width, channels) and ``num_kinds``."""
        return {
            "input_shape": [self.fitted["height"], self.fitted["width"], self.fitted["channels"]],
            "num_kinds": len(self.labels),
        }

    def training_rows(self, features: Path) -> Rows:
        """The annotated images; raises `DataError` if there is no box."""
        rows = self._rows(features, "train")
        seen = (rows.targets[:, :, 0] != UNSEEN).all(axis=1)
        if not (rows.targets[:, :, 0] >= 0).any():
            raise DataError(
                "no picture of the training split has a box.",
                where=str(features / "train"),
                fix="Choose a source with boxes, such as voc or coco.",
            )
        return rows if seen.all() else Rows(rows.inputs[seen], rows.targets[seen])

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """All images of the split; those without annotations are not evaluated."""
        return self._rows(features, split)

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [N, C, H, W] in [0, 1], to be augmented, of stored rows uint8 [N, H, W, C]."""
        from lepton_tasks.models.pictures import pixels

        return pixels(stored)

    def trainable(self, network: nn.Module) -> nn.Module:
        """`network` preceded by normalisation: pixels in [0, 1] -> maps."""
        from lepton_tasks.models.pictures import Normalised

        return Normalised(network, self.fitted["mean"], self.fitted["std"])

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: uint8 [N, H, W, C] -> boxes, scores and classes, after non-maximum suppression."""
        from lepton_tasks.models.detector import Detections

        return Detections(self.trainable(network), most=self.most, overlap=self.overlap)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Focal loss of the classes plus `sides` times the generalised IoU loss of the boxes; see `detection_loss`."""
        from lepton_tasks.models.detection_loss import detection_loss

        return detection_loss(outputs, targets, sides=self.sides)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Average precision as COCO defines it.

        Args:
            outputs: ``boxes`` float [N, M, 4] in [0, 1], ``scores`` float [N, M], ``kinds`` int [N, M].
            targets: Class and sides in pixels, float [N, M, 5].

        Returns:
            ``map50`` and ``map``: the mean over classes at IoU .5, and at .5, .55, ... .95. ``ap50_<class>`` of up to
            twelve classes. 0 for a class absent from the split.
        """
        found = self._precision(outputs, targets)
        named = {f"ap50_{_plain(label)}": found.at_half[i] for i, label in enumerate(self.labels[:_NAMED])}
        return {"map50": found.mean_at_half, "map": found.mean, **named}

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Per class: boxes, average precision, and precision and recall of the returned boxes."""
        found = self._precision(outputs, rows.targets)
        return {
            label: {
                "boxes": int((rows.targets[:, :, 0] == i).sum()),
                "ap50": found.at_half[i],
                "ap": found.each[i],
                **found.answered(i, self.least),
            }
            for i, label in enumerate(self.labels)
        }

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """Largest score of each image, float [N]."""
        return np.asarray(outputs[SCORES].max(axis=1))

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of predicting the boxes of the previous image."""
        other = np.roll(rows.targets, 1, axis=0)
        there = other[:, :, 0] >= 0
        answers: dict[str, np.ndarray] = {
            BOXES: np.where(there[:, :, None], other[:, :, 1:] / self._size, 0).astype(np.float32),
            SCORES: there.astype(np.float32),
            KINDS: np.where(there, other[:, :, 0], 0).astype(np.int64),
        }
        return self.metrics(answers, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``precision_recall.png``, and ``boxes.png``: the `worst` images with ground truth and predictions."""
        from lepton_tasks.learning.detection_plots import boxes_plot, precision_plot

        found = self._precision(outputs, rows.targets)
        order = found.worst_pictures(self.least)[:worst]
        answers = {name: values[order] for name, values in outputs.items()}
        answers[BOXES] = answers[BOXES] * self._size
        return [
            precision_plot(folder / "precision_recall.png", found, self.labels),
            boxes_plot(
                folder / "boxes.png", rows.inputs[order], answers, rows.targets[order], self.labels, least=self.least
            ),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns boxes."""
        return "boxes", {"labels": self.labels, "least": self.least}

    @property
    def _size(self) -> np.ndarray:
        """Width and height, twice: factors from relative sides to pixels."""
        return np.array([self.fitted["width"], self.fitted["height"]] * 2, np.float32)

    def _precision(self, outputs: Outputs, targets: np.ndarray) -> AveragePrecision:
        judged = (targets[:, :, 0] != UNSEEN).all(axis=1)
        answers = {name: values[judged] for name, values in outputs.items()}
        return average_precision(
            answers[BOXES] * self._size, answers[SCORES], answers[KINDS], targets[judged], kinds_count=len(self.labels)
        )

    def _rows(self, features: Path, split: str) -> Rows:
        rows, folder = open_split(features, split), features / split
        if not (folder / "boxes.parquet").exists():
            raise DataError(
                "the pictures have no boxes.", where=str(folder), fix="Choose a source with boxes, such as voc or coco."
            )
        kinds = {label: i for i, label in enumerate(self.labels)}
        boxes = [line for line in pq.read_table(folder / "boxes.parquet").to_pylist() if line["label"] in kinds]
        counts = np.bincount([line["row"] for line in boxes], minlength=len(rows.inputs))
        targets = np.zeros((len(rows.inputs), max(1, int(counts.max(initial=0))), 5), np.float32)
        targets[:, :, 0] = NOTHING
        unseen = pq.read_table(folder / "ids.parquet", columns=["boxes"])["boxes"].is_null().to_numpy()
        targets[unseen, :, 0] = UNSEEN
        place = np.zeros(len(rows.inputs), np.int64)
        for line in boxes:
            row = line["row"]
            targets[row, place[row]] = (kinds[line["label"]], *(line[side] for side in _SIDES))
            place[row] += 1
        return Rows(rows.inputs, targets)


def _plain(label: str) -> str:
    """Convert a label to a part of a metric name."""
    return "".join(letter if letter.isalnum() else "_" for letter in label.lower())
