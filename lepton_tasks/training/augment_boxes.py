"""Augmentations that transform bounding boxes with their images: see `lepton_tasks.training.augment`.

Targets are float32 [N, M, 5]: class (below 0: none), left, top, right, bottom, in pixels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional

from lepton_tasks.training.augment import Batch, Share

_LEAST_SEEN = 0.4  # minimum visible fraction of a box's area; objects below it are unrecognisable


class BoxView:
    """Random scaling, translation and mirroring of images with their boxes.

    Args:
        scale: Scale factors are in [1 - scale, 1 + scale].
        translate: Maximum shift, as a fraction of the image size.
        flip: Probability of a horizontal flip.
        upside_down: Probability of a vertical flip, for images without a fixed orientation.
    """

    boxes: ClassVar[bool | None] = True

    def __init__(self, scale: Share = 0.2, translate: Share = 0.1, flip: Share = 0.5, upside_down: Share = 0.0) -> None:
        self.scale, self.translate, self.flip, self.upside_down = scale, translate, flip, upside_down

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> Batch:
        """See the module."""
        n, _, height, width = images.shape
        device = images.device
        factor = 1 + (torch.rand(n, 1, device=device) * 2 - 1) * self.scale
        mirror = torch.stack(
            [1 - 2.0 * (torch.rand(n, device=device) < chance) for chance in (self.flip, self.upside_down)], dim=1
        )
        move = (torch.rand(n, 2, device=device) * 2 - 1) * 2 * self.translate
        # Point p of the new image, in [-1, 1], samples (p - move) * mirror / factor of the old one.
        by = mirror / factor
        theta = torch.diag_embed(by)
        grid = functional.affine_grid(
            torch.cat([theta, -(move * by)[:, :, None]], dim=2), list(images.shape), align_corners=False
        )
        moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return moved, _moved(targets, mirror * factor, move, torch.tensor([width, height], device=device))


def _moved(targets: torch.Tensor, by: torch.Tensor, move: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Targets with corners scaled, then shifted, in image coordinates [-1, 1]."""
    corners = targets[:, :, 1:].unflatten(2, (2, 2)) / size * 2 - 1
    corners = ((corners * by[:, None, None] + move[:, None, None]) + 1) / 2 * size
    low, high = corners.amin(dim=2), corners.amax(dim=2)
    seen_low, seen_high = low.clamp(min=0).minimum(size), high.clamp(min=0).minimum(size)
    whole = (high - low).prod(dim=2).clamp(min=1e-6)
    seen = (seen_high - seen_low).prod(dim=2) / whole
    kind = torch.where(seen >= _LEAST_SEEN, targets[:, :, 0], torch.full_like(seen, -1))
    return torch.cat([kind[:, :, None], seen_low, seen_high], dim=2)
