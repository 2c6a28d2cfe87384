"""Small anchor-free object detector: predicts object centres and the distances to the box sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.models.pictures import pixels
from lepton_tasks.models.residual_cnn import Residual, conv

STRIDE = 8
"""Image pixels per map cell, in both directions."""
_RARE = 0.01  # initial probability everywhere; Lin et al., "Focal loss", 2017


class CentreDetector(nn.Module):
    """Residual backbone to 1/32 resolution, merged up to 1/8, where each location is classified.

    With the default parameters it has 0.8 million parameters.

    Args:
        input_shape: ``(height, width, channels)`` of an image; both sides multiples of 32.
        num_kinds: Number of classes.
        width: Channels of the first stage; doubled by each later one.
        blocks: Residual blocks of the stages at 1/4, 1/8, 1/16 and 1/32.
        neck: Channels of the merged map.
        usual_size: Typical object size, in pixels: initial prediction.

    Source: Zhou et al., "Objects as points", 2019; distances to the four sides by Tian et al., "FCOS", 2019; top-down
    path by Lin et al., "Feature pyramid networks", 2017.
    """

    prunable: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int],
        num_kinds: int,
        *,
        width: int = 24,
        blocks: Sequence[int] = (1, 1, 1, 1),
        neck: int = 64,
        usual_size: float = 48.0,
    ) -> None:
        super().__init__()
        channels = input_shape[2]
        self.stem = nn.Sequential(conv(channels, width, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.stages = nn.ModuleList()
        self.sideways = nn.ModuleList()
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layers = [
                Residual(inputs if index == 0 else outputs, outputs, stride=2 if stage > 0 and index == 0 else 1)
                for index in range(count)
            ]
            self.stages.append(nn.Sequential(*layers))
            if stage > 0:
                self.sideways.append(conv(outputs, neck, size=1))
            inputs = outputs
        self.merge = nn.Sequential(nn.ReLU(inplace=True), conv(neck, neck), nn.ReLU(inplace=True))
        self.kinds = nn.Sequential(conv(neck, neck), nn.ReLU(inplace=True), nn.Conv2d(neck, num_kinds, 1))
        self.sides = nn.Sequential(conv(neck, neck), nn.ReLU(inplace=True), nn.Conv2d(neck, 4, 1))
        nn.init.constant_(self.kinds[-1].bias, math.log(_RARE / (1 - _RARE)))  # type: ignore[arg-type]  # has a bias
        nn.init.constant_(self.sides[-1].bias, math.log(usual_size / 2 / STRIDE))  # type: ignore[arg-type]  # likewise
        nn.init.normal_(self.kinds[-1].weight, std=0.01)  # type: ignore[arg-type]  # a convolution's
        nn.init.normal_(self.sides[-1].weight, std=0.01)  # type: ignore[arg-type]  # a convolution's

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps float32 [N, num_kinds + 4, H / 8, W / 8] of normalised images float32 [N, C, H, W].

        First a centre logit per class; then the log-distances to the left, top, right and bottom side, in units of 8
        pixels.
        """
        maps, x = [], self.stem(images)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index > 0:
                maps.append(self.sideways[index - 1](x))
        merged = maps.pop()
        while maps:
            finer = maps.pop()
            merged = finer + functional.interpolate(merged, size=finer.shape[2:], mode="nearest")
        merged = self.merge(merged)
        return torch.cat([self.kinds(merged), self.sides(merged)], dim=1)


def boxes_of(distances: torch.Tensor) -> torch.Tensor:
    """Boxes float32 [N, H, W, 4] (left, top, right, bottom, in image pixels) of log-distance maps.

    Args:
        distances: float [N, 4, H, W], the last four channels of `CentreDetector`.
    """
    height, width = distances.shape[2:]
    reach = STRIDE * distances.float().clamp(-6, 6).exp().permute(0, 2, 3, 1)
    middle = centres(height, width, distances.device)
    return torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], dim=3)


def centres(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Centres of the map cells, float32 [height, width, 2] (x, y), in image pixels."""
    y = (torch.arange(height, device=device) + 0.5) * STRIDE
    x = (torch.arange(width, device=device) + 0.5) * STRIDE
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)


class Detections(nn.Module):
    """Serving graph: stored images -> boxes.

    Peaks of the maps are candidates; of two that overlap, the lower-scoring one is removed. All pairs are compared
    at once, so a suppressed box still suppresses others: no loop, hence plain ONNX.

    Args:
        maps: Images float32 [N, C, H, W] in [0, 1] -> maps of `CentreDetector`.
        most: Maximum number of boxes per image.
        least: Minimum score of returned boxes.
        overlap: IoU threshold of non-maximum suppression within a class.

    Source: peaks by Zhou et al., "Objects as points", 2019; suppression by Bolya et al., "YOLACT", 2019 ("Fast NMS").
    """

    def __init__(self, maps: nn.Module, *, most: int = 100, least: float = 0.02, overlap: float = 0.5) -> None:
        super().__init__()
        self.maps, self.most, self.least, self.overlap = maps, most, least, overlap

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes float32 [N, most, 4], scores float32 [N, most] and classes int64 [N, most] of uint8 [N, H, W, C].

        A box is left, top, right, bottom, each in [0, 1] relative to the image's width or height. Boxes are in order of
        position; a score of 0 means no box.
        """
        height, width = image.shape[1:3]
        maps = self.maps(pixels(image)).float()
        logits, distances = maps[:, :-4], maps[:, -4:]
        scores = logits.sigmoid()
        peak = scores == functional.max_pool2d(scores, 3, stride=1, padding=1)
        # Equal scores below the limit hide the order of ties, which differs between runtimes.
        scores = torch.where(peak & (scores >= self.least), scores, torch.zeros_like(scores)).flatten(1)
        places = logits.shape[2] * logits.shape[3]
        found, index = scores.topk(min(self.most, scores.shape[1]), dim=1)
        kinds, place = index // places, index % places
        size = torch.tensor([width, height, width, height], dtype=torch.float32, device=image.device)
        boxes = (boxes_of(distances).flatten(1, 2) / size).clamp(0, 1)
        boxes = boxes.gather(1, place[:, :, None].expand(-1, -1, 4))
        found = torch.where(self._doubled(boxes, kinds), torch.zeros_like(found), found)
        nothing = found == 0
        order = torch.where(nothing, torch.full_like(index, scores.shape[1]), index).argsort(dim=1)
        found, kinds, nothing = (values.gather(1, order) for values in (found, kinds, nothing))
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        return boxes * (~nothing)[:, :, None], found, torch.where(nothing, torch.zeros_like(kinds), kinds)

    def _doubled(self, boxes: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Boxes, sorted by score, that overlap a better one of their class: bool [N, most]."""
        low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
        high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        shared = (high - low).clamp(min=0).prod(dim=3)
        areas = (boxes[:, :, 2:] - boxes[:, :, :2]).prod(dim=2)
        union = areas[:, :, None] + areas[:, None, :] - shared
        alike = (shared > self.overlap * union) & (kinds[:, :, None] == kinds[:, None, :])
        count = boxes.shape[1]
        surer = torch.ones(count, count, dtype=torch.bool, device=boxes.device).triu(1)
        return (alike & surer).any(dim=1)
