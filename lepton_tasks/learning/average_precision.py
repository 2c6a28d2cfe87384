"""COCO average precision of bounding boxes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_MOST = 100  # boxes per image that COCO evaluates


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """Detection results matched with the ground truth.

    Attributes:
        precision: float [10 IoU thresholds, 101 recalls, K]: best precision at that recall or higher; -1 for a class
            without ground truth.
        right: bool [N, M]: boxes that match a ground-truth box at IoU .5, matched in order of score.
        scores: float [N, M].
        kinds: int [N, M].
        marked: int [N, K]: ground-truth boxes.
    """

    precision: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    marked: np.ndarray

    @property
    def at_half(self) -> list[float]:
        """Average precision of each class at IoU .5; 0 without ground truth."""
        return [max(0.0, float(value)) for value in self.precision[0].mean(axis=0)]

    @property
    def each(self) -> list[float]:
        """Average precision of each class over IoU .5, .55, ... .95."""
        return [max(0.0, float(value)) for value in self.precision.mean(axis=(0, 1))]

    @property
    def mean_at_half(self) -> float:
        """Mean of `at_half` over the classes with ground truth."""
        return self._mean(self.at_half)

    @property
    def mean(self) -> float:
        """Mean of `each` over the classes with ground truth."""
        return self._mean(self.each)

    def answered(self, kind: int, least: float) -> dict[str, float]:
        """Precision and recall of a class's boxes with a score of at least `least`."""
        said = (self.kinds == kind) & (self.scores >= max(least, 1e-6))
        right, marked = int((said & self.right).sum()), int(self.marked[:, kind].sum())
        return {
            "precision": right / int(said.sum()) if said.any() else 0.0,
            "recall": right / marked if marked else 0.0,
        }

    def worst_pictures(self, least: float) -> np.ndarray:
        """Image indices by false positives and misses, most first; int [N]."""
        said = self.scores >= max(least, 1e-6)
        right = (said & self.right).sum(axis=1)
        return np.argsort(-(said.sum(axis=1) - right + self.marked.sum(axis=1) - right), kind="stable")

    def _mean(self, values: list[float]) -> float:
        shown = self.precision[0, 0] >= 0
        return float(np.mean(np.array(values)[shown])) if shown.any() else 0.0


def average_precision(
    boxes: np.ndarray, scores: np.ndarray, kinds: np.ndarray, targets: np.ndarray, *, kinds_count: int
) -> AveragePrecision:
    """Compare predicted boxes with the ground truth.

    Args:
        boxes: float [N, M, 4]: left, top, right, bottom, in pixels.
        scores: float [N, M]; 0 for no box.
        kinds: int [N, M].
        targets: float [N, L, 5]: class (below 0: none) and sides.
        kinds_count: Number of classes.

    Source: Lin et al., "Microsoft COCO", 2014; computed by faster-coco-eval.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    categories = [{"id": kind, "name": str(kind)} for kind in range(kinds_count)]
    images = [{"id": row, "width": 1, "height": 1} for row in range(len(targets))]
    rows, places = np.nonzero(targets[:, :, 0] >= 0)
    marked = [
        {"id": i, "image_id": int(row), "iscrowd": 0, **_annotation(targets[row, place, 1:], targets[row, place, 0])}
        for i, (row, place) in enumerate(zip(rows, places, strict=True), start=1)
    ]
    found = [
        {"image_id": int(row), "score": float(scores[row, place]), **_annotation(boxes[row, place], kinds[row, place])}
        for row, place in zip(*np.nonzero(scores > 0), strict=True)
    ]
    right = np.zeros(scores.shape, bool)
    counts = np.zeros((len(targets), kinds_count), np.int64)
    np.add.at(counts, (rows, targets[rows, places, 0].astype(np.int64)), 1)
    precision = np.where(counts.any(axis=0), np.zeros((10, 101, kinds_count)), -1.0)
    if marked and found:
        truth = COCO({"images": images, "categories": categories, "annotations": marked})
        judge = COCOeval_faster(truth, truth.loadRes(found), "bbox", print_function=lambda *_: None)
        judge.params.maxDets = [_MOST]
        judge.evaluate()
        judge.accumulate()
        precision = judge.eval["precision"][:, :, :, 0, -1]
        right = _right(boxes, scores, kinds, targets)
    return AveragePrecision(precision, right, scores, kinds, counts)


def _annotation(sides: np.ndarray, kind: Any) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in sides)
    width, height = right - left, bottom - top
    return {"category_id": int(kind), "bbox": [left, top, width, height], "area": width * height}


def _right(boxes: np.ndarray, scores: np.ndarray, kinds: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Boxes that match a ground-truth box of their class, greedily by score: bool [N, M]."""
    right = np.zeros(scores.shape, bool)
    for row in range(len(boxes)):
        overlaps = iou(boxes[row], targets[row, :, 1:])
        overlaps[kinds[row][:, np.newaxis] != targets[row, :, 0]] = 0
        for place in np.argsort(-scores[row], kind="stable")[: int((scores[row] > 0).sum())]:
            best = int(overlaps[place].argmax())
            if overlaps[place, best] >= 0.5:
                right[row, place] = True
                overlaps[:, best] = 0
    return right


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs of boxes float [A, 4] and [B, 4] (left, top, right, bottom)."""
    low = np.maximum(first[:, np.newaxis, :2], second[:, :2])
    high = np.minimum(first[:, np.newaxis, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, np.newaxis] + areas[1] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))
