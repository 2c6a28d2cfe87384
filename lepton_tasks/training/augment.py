"""Batch augmentations, on the device of the batch.

Each is called with images float32 [N, C, H, W] in [0, 1] and targets [N, ...] and returns both. Random numbers come
from torch's global generator, seeded before every step, so a resumed run draws the same ones.

``boxes``: True if targets are boxes, transformed with the images; False if the images move but boxes would not; None if
nothing moves.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import pydantic
import torch
from torch.nn import functional

from lepton_tasks.core.errors import ConfigError

Batch = tuple[torch.Tensor, torch.Tensor]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = Annotated[int, pydantic.Field(gt=0)]


class Affine:
    """Random rotation, translation and scaling; new areas repeat the border pixels.

    Args:
        degrees: Maximum rotation in either direction.
        translate: Maximum shift, as a fraction of the image size.
        scale: Scale factors are in [1 - scale, 1 + scale].
    """

    boxes: ClassVar[bool | None] = False

    def __init__(
        self, degrees: Annotated[float, pydantic.Field(ge=0, le=180)] = 0, translate: Share = 0, scale: Share = 0
    ) -> None:
        self.degrees, self.translate, self.scale = degrees, translate, scale

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module."""
        n, _, height, width = images.shape
        angle = _uniform(n, images) * math.radians(self.degrees)
        factor = 1 / (1 + _uniform(n, images) * self.scale).clamp(min=0.05)
        cos, sin = angle.cos() * factor, angle.sin() * factor
        # affine_grid's coordinates run from -1 to 1 on either axis, so a rotation depends on the aspect ratio.
        ratio = height / width
        theta = torch.stack(
            (
                torch.stack((cos, -sin * ratio, _uniform(n, images) * 2 * self.translate), dim=1),
                torch.stack((sin / ratio, cos, _uniform(n, images) * 2 * self.translate), dim=1),
            ),
            dim=1,
        )
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False), targets


class Colour:
    """Scale brightness, contrast and saturation by factors in [1 - x, 1 + x].

    Args:
        brightness: Factor of every pixel.
        contrast: Factor of the distance to the image's mean.
        saturation: Factor of the distance to grey; no effect on one-channel images.
    """

    boxes: ClassVar[bool | None] = None

    def __init__(self, brightness: Share = 0, contrast: Share = 0, saturation: Share = 0) -> None:
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module."""
        n = len(images)
        images = images * _factor(n, images, self.brightness)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * _factor(n, images, self.contrast)
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * _factor(n, images, self.saturation)
        return images.clamp(0, 1), targets


class Crop:
    """Random crop of training images; validation and serving use whole images.

    Args:
        height: Window height in pixels.
        width: Window width in pixels.
    """

    boxes: ClassVar[bool | None] = False

    def __init__(self, height: Positive, width: Positive) -> None:
        self.height, self.width = height, width

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module."""
        n, channels, height, width = images.shape
        if self.height > height or self.width > width:
            raise ConfigError(
                f"a window of {self.height}x{self.width} does not fit into pictures of {height}x{width}.",
                where="train.augment: crop",
                fix="Make the window smaller, or the features' height and width larger.",
            )
        device = images.device
        top = torch.randint(height - self.height + 1, (n, 1), device=device)
        left = torch.randint(width - self.width + 1, (n, 1), device=device)
        rows = top + torch.arange(self.height, device=device)
        columns = left + torch.arange(self.width, device=device)
        picture = torch.arange(n, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[None, :, None, None]
        return images[picture, channel, rows[:, None, :, None], columns[:, None, None, :]], targets


class Flip:
    """Random horizontal flip.

    Args:
        chance: Probability of flipping an image.
    """

    boxes: ClassVar[bool | None] = False

    def __init__(self, chance: Share = 0.5) -> None:
        self.chance = chance

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module."""
        mirrored = torch.rand(len(images), device=images.device) < self.chance
        return torch.where(mirrored[:, None, None, None], images.flip(3), images), targets


class Mixup:
    """Blend each image and target with another of the batch.

    Args:
        alpha: The mixing weight is drawn from Beta(alpha, alpha), once per batch.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", 2018.
    """

    boxes: ClassVar[bool | None] = False

    def __init__(self, alpha: Annotated[float, pydantic.Field(gt=0)] = 0.2) -> None:
        self.alpha = alpha

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module; targets are probabilities.

        Raises:
            ConfigError: the targets are class indices, which cannot be blended.
        """
        if not targets.is_floating_point():
            raise ConfigError("this task's targets cannot be mixed.", where="train.augment: mixup", fix="Leave it out.")
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        other = torch.randperm(len(images), device=images.device)
        return torch.lerp(images, images[other], share), torch.lerp(targets, targets[other], share)


def _uniform(n: int, like: torch.Tensor) -> torch.Tensor:
    """Uniform in [-1, 1), shape [n]."""
    return torch.rand(n, device=like.device) * 2 - 1


def _factor(n: int, like: torch.Tensor, spread: float) -> torch.Tensor:
    return (1 + _uniform(n, like) * spread)[:, None, None, None]
