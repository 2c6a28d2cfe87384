"""Target maps and loss of the object detector."""

from __future__ import annotations

import torch
from torch.nn import functional

from lepton_tasks.models.detector import STRIDE, boxes_of, centres

# Centres are Gaussian peaks: their spread is this share of the box's sides, and at least half a map cell.
_SPREAD = 0.1
_AROUND = 0.2  # minimum peak value at which a cell learns the sides of its box


def detection_loss(maps: torch.Tensor, targets: torch.Tensor, *, sides: float) -> torch.Tensor:
    """Focal loss of the centres plus `sides` times the mean generalised IoU loss of their boxes.

    Args:
        maps: float [N, K + 4, H, W], output of `CentreDetector`.
        targets: float [N, M, 5]: class (below 0: none), left, top, right, bottom, in pixels of the image.
        sides: Weight of the box loss.

    Source: Zhou et al., "Objects as points", 2019 (focal loss); Liu et al., "Training-time-friendly network", 2020
    (boxes learned by all cells near a centre, weighted by proximity); Rezatofighi et al., "GIoU", 2019.
    """
    maps = maps.float()
    logits, distances = maps[:, :-4], maps[:, -4:]
    hills = _hills(targets, *logits.shape[2:])
    kinds = targets[:, :, 0].long().clamp(min=0)
    wanted = torch.zeros_like(logits).scatter_reduce(1, kinds[:, :, None, None].expand_as(hills), hills, "amax")
    weight, boxes = _boxes_around(hills, targets)
    apart = (weight * (1 - generalised_iou(boxes_of(distances), boxes))).sum() / weight.sum().clamp(min=1)
    return _focal(logits, wanted) + sides * apart


def _hills(targets: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Gaussian peak per box, 1 at the cell nearest its centre: float [N, M, H, W]; 0 for no box."""
    low, high = targets[:, :, 1:3], targets[:, :, 3:5]
    limit = torch.tensor([width - 1, height - 1], device=targets.device)
    nearest = ((low + high) / 2 / STRIDE).floor().clamp(min=0).minimum(limit)
    middle = (nearest + 0.5) * STRIDE
    spread = (_SPREAD * (high - low)).clamp(min=STRIDE / 2)
    away = (centres(height, width, targets.device) - middle[:, :, None, None]) / spread[:, :, None, None]
    there = (targets[:, :, 0] >= 0)[:, :, None, None]
    return torch.exp(-0.5 * away.square().sum(dim=4)) * there


def _focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Focal loss over all cells, divided by the number of peaks."""
    top = wanted > 1 - 1e-4
    sure, unsure = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    share = logits.sigmoid()
    of_top = -((1 - share) ** 2) * sure
    of_rest = -((1 - wanted) ** 4) * share**2 * unsure
    return torch.where(top, of_top, of_rest).sum() / top.sum().clamp(min=1)


def _boxes_around(hills: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Box that each cell learns, the smallest whose peak covers it: weight [N, H, W] and box [N, H, W, 4]."""
    areas = (targets[:, :, 3:5] - targets[:, :, 1:3]).prod(dim=2)[:, :, None, None]
    on = hills > _AROUND
    chosen = torch.where(on, areas, torch.inf).argmin(dim=1, keepdim=True)
    weight = (hills * on).gather(1, chosen)[:, 0]
    index = chosen[:, 0, :, :, None].flatten(1, 2).expand(-1, -1, 4)
    boxes = targets[:, :, 1:].gather(1, index).unflatten(1, weight.shape[1:])
    return weight, boxes


def generalised_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """IoU minus the uncovered share of the smallest enclosing box; float [...] in [-1, 1].

    Args:
        first: float [..., 4]: left, top, right, bottom.
        second: Likewise.
    """
    shared = _area(torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:]))
    around = _area(torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:]))
    union = (_area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - shared).clamp(min=1e-6)
    return shared / union - (around - union) / around.clamp(min=1e-6)


def _area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)
