"""Convolutional autoencoder, with anomaly scores from its reconstruction errors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.codecs.anomaly import CELL
from lepton_tasks.models.pictures import pixels


class Autoencoder(nn.Module):
    """Convolutional autoencoder with three stride-2 stages and a narrow bottleneck.

    Args:
        sample_shape: ``(height, width, channels)`` of an image or ``(steps, variables)`` of a window of a series.
        width: Channels of the first layer; the later ones have twice and four times as many.
        code: Channels of the bottleneck, per cell of 8 x 8 pixels or 8 steps. Fewer than a cell's values, so that only
            common patterns can be reconstructed.

    Attributes:
        threshold: Largest normal cell error: a buffer, infinite until set, saved with the weights.

    Source: Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006.
    """

    prunable: ClassVar[bool] = True

    threshold: torch.Tensor

    def __init__(self, sample_shape: Sequence[int], *, width: int = 16, code: int = 4) -> None:
        super().__init__()
        *sides, channels = sample_shape
        self._sides = list(sides)
        self.register_buffer("threshold", torch.tensor(float("inf")))
        flat = len(sides) == 2
        conv = nn.Conv2d if flat else nn.Conv1d
        back = nn.ConvTranspose2d if flat else nn.ConvTranspose1d
        sizes = [channels, width, 2 * width, 4 * width]
        down: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            down += [conv(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
        self.down = nn.Sequential(*down, conv(sizes[-1], code, 1))
        up: list[nn.Module] = [conv(code, sizes[-1], 3, padding=1)]
        for inputs, outputs in itertools.pairwise(reversed(sizes)):
            up += [nn.LeakyReLU(0.1), back(inputs, outputs, 4, stride=2, padding=1)]
        self.up = nn.Sequential(*up)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Reconstructions, float32 [N, channels, *sides]."""
        missing = [side for size in reversed(self._sides) for side in (0, -size % CELL)]
        given: torch.Tensor = self.up(self.down(functional.pad(samples, missing)))
        return given[..., : self._sides[0], : self._sides[1]] if len(self._sides) == 2 else given[..., : self._sides[0]]


class CellErrors(nn.Module):
    """Reconstruction errors of an autoencoder, per cell.

    Args:
        network: Reconstructs normalised samples float32 [N, channels, *sides].
        mean: Per channel.
        std: Likewise; above 0.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, sides: int) -> None:
        super().__init__()
        self.network = network
        ones = [1] * sides
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, *ones))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, *ones))

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Mean squared error per cell, float32 [N, cells, ...], of samples [N, channels, *sides].

        In units of the standard deviation; cells at the edge may be smaller.
        """
        samples = (samples - self.mean) / self.std
        wrong = (self.network(samples) - samples).square().mean(dim=1, keepdim=True)
        if wrong.dim() == 4:
            return functional.avg_pool2d(wrong, CELL, ceil_mode=True, count_include_pad=False)[:, 0]
        return functional.avg_pool1d(wrong, CELL, ceil_mode=True, count_include_pad=False)[:, 0]


class Watch(nn.Module):
    """Serving graph: stored samples -> anomaly scores and decisions.

    Args:
        errors: Wraps the autoencoder, whose buffer ``threshold`` is the largest normal error.
    """

    def __init__(self, errors: CellErrors) -> None:
        super().__init__()
        self.errors = errors

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score and threshold float32 [N], whether the score exceeds it, bool [N], and all cell errors.

        Takes images uint8 [N, H, W, C] or windows float32 [N, steps, variables]. The score is the largest error.
        """
        errors = self.errors(channels_first(sample))
        scores = errors.flatten(1).amax(dim=1)
        thresholds = torch.zeros_like(scores) + cast("torch.Tensor", self.errors.network.threshold)
        return scores, thresholds, scores > thresholds, errors


def channels_first(stored: torch.Tensor) -> torch.Tensor:
    """Convert stored images, scaled to [0, 1], or stored windows to float32 [N, channels, *sides]."""
    return pixels(stored) if stored.dim() == 4 else stored.transpose(1, 2)
