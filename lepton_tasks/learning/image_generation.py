"""Learning task `image_generation`: a GAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic

from lepton_tasks.codecs.latent import LatentCodec
from lepton_tasks.codecs.picture import to_uint8
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Outputs, Phase, Rows
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.learning.generation_judge import Judge, frechet_distance, trained_judge
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

PICTURE = "picture"
_MOST = 2_000  # generated images per evaluation
_ACROSS = 10  # images per label in the grids


class ImageGeneration(Task):
    """Images float32 [N, H, W, C] in [0, 1], optionally of a given label; trained on uint8 [N, H, W, C].

    Args:
        fitted: Of the extractor ``image``.
        labels: Labels that can be requested.
        latent: Length of the noise vector.
        conditional: Whether images are generated for a requested label.
        objective: The adversarial objective: ``non_saturating`` (a classifier), ``hinge``, or ``wasserstein`` (a
            distance; needs a penalty and several critic steps).
        penalty: Weight of the gradient penalty on the critic; 10 is usual for ``wasserstein``.
        critic_steps: Critic steps per generator step.

    Source: Goodfellow et al., "Generative adversarial nets", 2014; hinge by Lim and Ye, 2017; Wasserstein with penalty
    by Gulrajani et al., 2017.
    """

    metric: ClassVar[str] = "fid"
    features: ClassVar[tuple[str, ...]] = ("image",)
    outputs: ClassVar[tuple[str, ...]] = (PICTURE,)
    network_parameters: ClassVar[tuple[str, ...]] = ("output_shape", "num_classes", "latent")
    replayable: ClassVar[bool] = False  # the judge is trained in the train and evaluate stages, and not stored

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        latent: Annotated[int, pydantic.Field(ge=1, le=4096)] = 64,
        conditional: bool = True,
        objective: Literal["non_saturating", "hinge", "wasserstein"] = "non_saturating",
        penalty: Annotated[float, pydantic.Field(ge=0)] = 0.0,
        critic_steps: Annotated[int, pydantic.Field(ge=1)] = 1,
    ) -> None:
        super().__init__(fitted, labels)
        self.latent, self.conditional = latent, conditional and bool(labels)
        self.objective, self.penalty, self.critic_steps = objective, penalty, critic_steps
        self._features: Path | None = None

    def network_arguments(self) -> dict[str, Any]:
        """``output_shape`` (height, width, channels), ``num_classes`` (0: unconditional) and ``latent``."""
        return {
            "output_shape": [self.fitted["height"], self.fitted["width"], self.fitted["channels"]],
            "num_classes": len(self.labels) if self.conditional else 0,
            "latent": self.latent,
        }

    def training_rows(self, features: Path) -> Rows:
        """The training split; raises `DataError` if conditional and a row has no label."""
        rows = open_split(features, "train")
        if self.conditional and (rows.targets < 0).any():
            raise DataError(
                "rows have no label.", where=str(features / "train"), fix="Add the cleaning step `unlabelled`."
            )
        return rows

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """Codes of the seeds 0, 1, ... with the split's labels; targets are its real images and labels."""
        rows = open_split(features, split)
        labels, pictures = rows.targets[:_MOST], np.asarray(rows.inputs[:_MOST])
        asked = labels if self.conditional else [None] * len(labels)
        codes = [self._codec.code(seed, label) for seed, label in enumerate(asked)]
        targets = np.zeros(len(labels), [("label", np.int64), (PICTURE, np.uint8, pictures.shape[1:])])
        targets["label"], targets[PICTURE] = labels, pictures
        self._features = features
        return Rows(np.stack(codes), targets)

    def input_codec(self) -> tuple[str, dict[str, Any]] | None:
        """Codec that samples the noise of a seed."""
        return "latent", {"latent": self.latent, "labels": self._codec.labels}

    def requests(self, rows: Rows) -> list[bytes] | None:
        """Labels and seeds of `evaluation_rows`, as request bodies."""
        import json

        asked = [{"label": self.labels[label]} if self.conditional else {} for label in rows.targets["label"]]
        return [json.dumps({**request, "seed": seed}).encode() for seed, request in enumerate(asked)]

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [N, C, H, W] in [0, 1], to be augmented, of stored rows uint8 [N, H, W, C]."""
        from lepton_tasks.models.pictures import pixels

        return pixels(stored)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Real images -> critic scores of as many generated ones."""
        from lepton_tasks.models.gan import Adversary

        return Adversary(network)  # type: ignore[arg-type]  # a DCGAN

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: codes float32 [N, latent + labels] -> images float32 [N, H, W, C] in [0, 1]."""
        from lepton_tasks.models.gan import Pictures

        return Pictures(network)

    def phases(self, network: nn.Module) -> list[Phase]:
        """The critic, then the generator once per `critic_steps`."""
        adversary = self.trainable(network)

        def critic(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self._critic_loss(network, images * 2 - 1, labels)

        def generator(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.loss(adversary(images, labels), labels)

        return [
            Phase("critic", list(network.critic.parameters()), critic),  # type: ignore[union-attr]  # a module
            Phase("generator", list(network.generator.parameters()), generator, self.critic_steps),  # type: ignore[union-attr]
        ]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Generator loss from the critic's scores of generated images, float [N]."""
        from torch.nn import functional

        if self.objective == "non_saturating":
            return functional.softplus(-outputs.float()).mean()
        return -outputs.float().mean()

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Similarity of generated to real images, as judged by a classifier of the real ones.

        Args:
            outputs: ``picture`` float [N, H, W, C] in [0, 1].
            targets: ``label`` and ``picture`` of real images, as returned by `evaluation_rows`.

        Returns:
            ``fid``: Fréchet distance of the classifier's features; near 0 for equal distributions, and comparable
            within one data set only. ``recognised``: share of generated images classified as the requested label; 0
            if unconditional.
        """
        drawn, seen = self._judged.look(outputs[PICTURE])
        real, _ = self._judged.look(targets[PICTURE].astype(np.float32) / 255)
        right = float((seen == targets["label"]).mean()) if self.conditional else 0.0
        return {"fid": frechet_distance(drawn, real), "recognised": right}

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Per label, the recognised share of generated and real images."""
        if not self.conditional:
            return {}
        _, drawn = self._judged.look(outputs[PICTURE])
        _, real = self._judged.look(rows.targets[PICTURE].astype(np.float32) / 255)
        asked = rows.targets["label"]
        return {
            label: {
                "rows": int((asked == i).sum()),
                "recognised": float((drawn[asked == i] == i).mean()) if (asked == i).any() else 0.0,
                "real recognised": float((real[asked == i] == i).mean()) if (asked == i).any() else 0.0,
            }
            for i, label in enumerate(self.labels)
        }

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of sampling each pixel from a different real image of the label."""
        chance = np.random.default_rng(0)
        real, asked = rows.targets[PICTURE], rows.targets["label"]
        flat = real.reshape(len(real), -1)
        drawn = np.empty_like(flat)
        for label in np.unique(asked):
            own = np.flatnonzero(asked == label)
            chosen = chance.choice(own, (len(own), flat.shape[1]))
            drawn[own] = flat[chosen, np.arange(flat.shape[1])]
        return self.metrics({PICTURE: drawn.reshape(real.shape).astype(np.float32) / 255}, rows.targets)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``samples.png`` and ``real.png``, one line per label, and a plot of the predicted labels."""
        from lepton_tasks.learning.classification_plots import confusion_plot

        drawn = [self._grid(folder / "samples.png", to_uint8(outputs[PICTURE]), rows.targets["label"])]
        drawn.append(self._grid(folder / "real.png", rows.targets[PICTURE], rows.targets["label"]))
        if self.conditional:
            _, seen = self._judged.look(outputs[PICTURE])
            counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
            np.add.at(counts, (rows.targets["label"], seen), 1)
            drawn.append(confusion_plot(folder / "confusion_matrix.png", counts, self.labels))
        return drawn

    def epoch_plot(self, path: Path, rows: Rows, outputs: Outputs) -> None:
        """The same seeds after each epoch, one line per label."""
        self._grid(path, to_uint8(outputs[PICTURE]), rows.targets["label"])

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that returns a PNG file."""
        return "picture", {}

    @property
    def _codec(self) -> LatentCodec:
        return LatentCodec(self.latent, self.labels if self.conditional else [])

    @property
    def _judged(self) -> Judge:
        if self._features is None:
            raise RuntimeError("pictures are judged after `evaluation_rows` has told where the real ones lie")
        return trained_judge(self._features, len(self.labels))

    def _critic_loss(self, network: nn.Module, real: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        from lepton_tasks.models.gan import gradient_penalty

        with torch.no_grad():
            drawn = network(network.code(labels))  # type: ignore[operator]  # a method
        of_real, of_drawn = (network.critic(pictures, labels).float() for pictures in (real, drawn))  # type: ignore[operator]
        if self.objective == "non_saturating":
            loss = functional.softplus(-of_real).mean() + functional.softplus(of_drawn).mean()
        elif self.objective == "hinge":
            loss = functional.relu(1 - of_real).mean() + functional.relu(1 + of_drawn).mean()
        else:
            loss = of_drawn.mean() - of_real.mean()
        if self.penalty:
            loss = loss + self.penalty * gradient_penalty(network.critic, real, drawn.float(), labels)  # type: ignore[arg-type]
        return loss

    def _grid(self, path: Path, pictures: np.ndarray, labels: np.ndarray) -> Path:
        from lepton_tasks.learning.generation_plots import grid_plot

        kinds = [np.flatnonzero(labels == i) for i in range(len(self.labels))] if self.conditional else []
        lines = [own for own in kinds if len(own)] or np.array_split(np.arange(min(len(pictures), 100)), 10)
        return grid_plot(path, [pictures[own[:_ACROSS]] for own in lines])
