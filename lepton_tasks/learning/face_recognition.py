"""Learning task `face_recognition`: embeddings compared by angle."""

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
from lepton_tasks.learning.task import Task
from lepton_tasks.learning.verification import nearest, rank1, roc, similarities

if TYPE_CHECKING:
    import torch
    from torch import nn

EMBEDDING = "embedding"
_FAR = 0.01  # false accept rate at which TAR and the threshold are reported
# Limited by the memory for all pairs: 8 million for 4,000 rows.
_MOST = 4_000


class FaceRecognition(Task):
    """Embeddings of uint8 [N, H, W, C]; the identity is a row's group, or its label without groups.

    Identities of the validation and test splits need not occur in training: the task is to distinguish new people.

    Args:
        fitted: Of the extractor ``image``.
        labels: Class names, if the source provides labels instead of groups.
        margin: Additive angular margin, in radians.
        scale: Factor of the cosines before the softmax.
        mirror: Sum the unit embeddings of an image and its mirror image, at twice the cost.

    Source: Deng et al., "ArcFace: additive angular margin loss for deep face recognition", 2019.
    """

    metric: ClassVar[str] = "auc"
    loss_of: ClassVar[tuple[str, ...]] = ("cosines", "embeddings")
    features: ClassVar[tuple[str, ...]] = ("image",)
    outputs: ClassVar[tuple[str, ...]] = (EMBEDDING,)
    network_parameters: ClassVar[tuple[str, ...]] = ("input_shape", "num_identities")

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        margin: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.3,
        scale: Annotated[float, pydantic.Field(gt=0)] = 16.0,
        mirror: bool = True,
    ) -> None:
        super().__init__(fitted, labels)
        self.margin, self.scale, self.mirror = margin, scale, mirror

    def network_arguments(self) -> dict[str, Any]:
        """``input_shape`` (height, width, channels) and ``num_identities`` of the training split."""
        return {
            "input_shape": [self.fitted["height"], self.fitted["width"], self.fitted["channels"]],
            "num_identities": self.fitted.get("groups") or len(self.labels),
        }

    def training_rows(self, features: Path) -> Rows:
        """The training split, with identity indices as targets.

        Raises:
            DataError: rows have neither group nor label, or there is only one identity.
        """
        return self._rows(features, "train")

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """Up to 4,000 rows of the split, with identity indices as targets."""
        rows = self._rows(features, split)
        if len(rows.targets) <= _MOST:
            return rows
        return Rows(rows.inputs[:_MOST], rows.targets[:_MOST])

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [N, C, H, W] in [0, 1], to be augmented, of stored rows uint8 [N, H, W, C]."""
        from lepton_tasks.models.pictures import pixels

        return pixels(stored)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Pixels in [0, 1] -> cosines to the identities of the training split."""
        from lepton_tasks.models.embedding import ToIdentities
        from lepton_tasks.models.pictures import Normalised

        return Normalised(ToIdentities(network), self.fitted["mean"], self.fitted["std"])

    def embedded(self, network: nn.Module) -> nn.Module:
        """Pixels in [0, 1] -> embeddings [N, D]; the identity vectors are not trained."""
        from lepton_tasks.models.pictures import Normalised

        network.identities.requires_grad_(False)
        return Normalised(network, self.fitted["mean"], self.fitted["std"])

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: uint8 [N, H, W, C] -> unit embeddings float32 [N, D]."""
        from lepton_tasks.models.embedding import Directions
        from lepton_tasks.models.pictures import Normalised

        return Directions(Normalised(network, self.fitted["mean"], self.fitted["std"]), mirror=self.mirror)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of scaled cosines [N, K], with `margin` added to the target's angle; targets [N]."""
        from lepton_tasks.models.losses import ArcFace

        return ArcFace(margin=self.margin, scale=self.scale).forward(outputs, targets)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Verification metrics over all pairs of rows, by cosine similarity.

        Args:
            outputs: ``embedding`` float [N, D], of unit length.
            targets: Identities, int [N].

        Returns:
            ``auc``: how often a pair of one person is more similar than a pair of different people. ``tar``: true
            accept rate at ``threshold``, where the false accept rate is 1 %. ``eer``: equal error rate. ``rank1``:
            rank-1 identification rate with one enrolled image per person.
        """
        found = roc(*similarities(outputs[EMBEDDING], targets))
        return {
            "auc": found.auc,
            "tar": found.tar(_FAR),
            "eer": found.eer,
            "rank1": rank1(outputs[EMBEDDING], targets),
            "threshold": found.threshold(_FAR),
        }

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Number and similarity of genuine and impostor pairs."""
        parts = zip(("same person", "strangers"), similarities(outputs[EMBEDDING], rows.targets), strict=True)
        return {
            name: {
                "pairs": len(values),
                "mean": float(values.mean()),
                "lowest": float(values.min()),
                "highest": float(values.max()),
            }
            for name, values in parts
        }

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """Whether the nearest other row shows the same person, bool [N]."""
        return np.asarray(targets[nearest(outputs[EMBEDDING])] == targets)

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of comparing pixels: cosines of images minus their mean brightness."""
        return self.metrics({EMBEDDING: _pixels(rows.inputs)}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``roc.png`` with the pixel baseline, ``similarities.png``, and the `worst` pairs as ``worst.png``."""
        from lepton_tasks.learning.verification_plots import pairs_plot, roc_plot, similarity_plot

        embeddings, targets = outputs[EMBEDDING], rows.targets
        same, strangers = similarities(embeddings, targets)
        curves = {"network": roc(same, strangers), "pixels": roc(*similarities(_pixels(rows.inputs), targets))}
        return [
            roc_plot(folder / "roc.png", curves, far=_FAR),
            similarity_plot(folder / "similarities.png", same, strangers, curves["network"].threshold(_FAR)),
            pairs_plot(folder / "worst.png", rows.inputs, embeddings, targets, count=worst),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns the embedding."""
        return "embedding", {}

    def _rows(self, features: Path, split: str) -> Rows:
        rows = open_split(features, split)
        ids = features / split / "ids.parquet"
        if self.fitted.get("groups"):
            groups = pq.read_table(ids, columns=["group"])["group"].to_numpy(zero_copy_only=False).astype(str)
            targets = np.unique(groups, return_inverse=True)[1].astype(np.int64)
        else:
            targets = rows.targets
        if len(np.unique(targets)) < 2:
            raise DataError(
                f"the {split} split shows no two different persons.",
                where=str(ids),
                fix="Give the source a `group` that names who a picture shows, and data.split.method: group.",
            )
        return Rows(rows.inputs, targets)


def _pixels(pictures: np.ndarray) -> np.ndarray:
    """Unit vectors float32 [N, H * W * C] of images, each minus its mean."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    directions: np.ndarray = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return directions
