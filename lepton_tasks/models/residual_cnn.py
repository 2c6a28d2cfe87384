"""Residual network for photos, small by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn


class ResidualCNN(nn.Module):
    """Residual network; each stage halves the size and doubles the channels.

    With `width` 32 and the default `blocks` it has 0.6 million parameters; `width` 64, `blocks` 2, 2, 2, 2 and `stem` 1
    give the ResNet-18 for 32x32 images, with 11 million. It is independent of the image size, so it can be trained on
    crops.

    Args:
        input_shape: ``(height, width, channels)`` of an image; at least 16x16, or less with a smaller `stem`.
        num_classes: Number of classes.
        width: Channels of the first stage.
        blocks: Residual blocks per stage.
        dropout: Dropout rate of the pooled features, in [0, 1).
        stem: Downsampling factor before the first stage; 1 suits images of about 32 pixels.

    Source: He et al., "Deep residual learning for image recognition", 2016; the averaging shortcut by He et al., "Bag
    of tricks for image classification", 2019; each block begins as the identity by Goyal et al., 2017.
    """

    prunable: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        width: int = 32,
        blocks: Sequence[int] = (1, 1, 2),
        dropout: float = 0.1,
        stem: Literal[1, 2, 4] = 4,
    ) -> None:
        super().__init__()
        self.features = residual_stages(input_shape[2], width, blocks, stem=stem)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width * 2 ** (len(blocks) - 1), num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, num_classes] of normalised images float32 [N, C, H, W]."""
        features: torch.Tensor = self.features(images)
        logits: torch.Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def residual_stages(channels: int, width: int, blocks: Sequence[int], *, stem: int = 4) -> nn.Sequential:
    """A stem at 1, a half or a quarter of the size and ``len(blocks)`` stages of residual blocks; see `ResidualCNN`.

    Images float32 [N, channels, H, W] -> maps float32 [N, width * 2**(stages - 1), H', W'], whose sizes are those of
    the image over `stem` (with 4 rounded down twice), then halved (rounded up) for each stage after the first.
    """
    layers: list[nn.Module] = [conv(channels, width, stride=1 if stem == 1 else 2), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(2)] if stem == 4 else []
    inputs = width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for index in range(count):
            layers.append(Residual(inputs, outputs, stride=2 if stage > 0 and index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Two convolutions beside an averaging shortcut; begins as the identity."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        last = conv(outputs, outputs)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]  # the batch norm's scale: the block begins as identity
        self.body = nn.Sequential(conv(inputs, outputs, stride=stride), nn.ReLU(inplace=True), last)
        # Rounded up like the strided convolution's output, for odd sizes.
        pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        shortcut: list[nn.Module] = [pool] if stride > 1 else []
        if inputs != outputs:
            shortcut.append(conv(inputs, outputs, size=1))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps float32 [N, outputs, H / stride, W / stride] of [N, inputs, H, W]."""
        return torch.relu(self.body(images) + self.shortcut(images))


def conv(inputs: int, outputs: int, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
