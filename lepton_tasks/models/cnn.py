"""Plain convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn


class CNN(nn.Module):
    """Four convolutions with batch normalisation, three downsamplings, global average pooling.

    The pooling makes the network independent of the image size, so it can be trained on crops.

    Args:
        input_shape: ``(height, width, channels)`` of an image; at least 8x8.
        num_classes: Number of classes.
        width: Channels of the first convolution; the later ones have twice, twice and four times as many.
        dropout: Dropout rate of the pooled features, in [0, 1).

    Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998; batch normalisation by
    Ioffe and Szegedy, 2015; the average in place of dense layers by Lin et al., "Network in Network", 2014.
    """

    prunable: ClassVar[bool] = True

    def __init__(self, input_shape: Sequence[int], num_classes: int, *, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        channels = input_shape[2]
        self.features = nn.Sequential(
            _block(channels, width),
            nn.MaxPool2d(2),
            _block(width, 2 * width),
            nn.MaxPool2d(2),
            _block(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _block(2 * width, 4 * width),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, num_classes] of normalised images float32 [N, C, H, W]."""
        features: torch.Tensor = self.features(images)
        logits: torch.Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
