"""Wrap image classifiers: input normalisation and output probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def pixels(stored: torch.Tensor) -> torch.Tensor:
    """Images float32 [N, C, H, W] in [0, 1] of stored ones, uint8 [N, H, W, C]."""
    return stored.permute(0, 3, 1, 2).float() / 255


class Normalised(nn.Module):
    """A network preceded by per-channel ``(pixels - mean) / std``.

    Args:
        network: Takes normalised images float32 [N, C, H, W].
        mean: Per channel, of pixels in [0, 1].
        std: Likewise; above 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's outputs for images float32 [N, C, H, W] in [0, 1]."""
        outputs: torch.Tensor = self.network((images - self.mean) / self.std)
        return outputs


class PictureClassifier(nn.Module):
    """Serving graph: stored images -> probabilities.

    Args:
        logits: Images float32 [N, C, H, W] in [0, 1] -> logits [N, K].
        mirror: Average the predictions for an image and its mirror image, at twice the cost.
    """

    def __init__(self, logits: nn.Module, *, mirror: bool = False) -> None:
        super().__init__()
        self.logits, self.mirror = logits, mirror

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [N, K] of uint8 [N, H, W, C]."""
        images = pixels(image)
        probabilities = torch.softmax(self.logits(images), dim=1)
        if self.mirror:
            probabilities = (probabilities + torch.softmax(self.logits(images.flip(3)), dim=1)) / 2
        return probabilities
