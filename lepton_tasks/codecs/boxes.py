"""Output codec of object detection: boxes, scores and classes -> JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class BoxesCodec:
    """Boxes with class and score.

    Args:
        labels: Class names by class index.
        least: Minimum score of a box.
    """

    labels: list[str]
    least: float = 0.3

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """``detections`` by descending score, with ``label``, ``score`` and ``box``; and ``counts`` per label.

        Box coordinates are fractions of the image's width and height in [0, 1]; with ``resize: crop`` or ``pad``, of
        the cropped or padded image.
        """
        boxes, scores, kinds = (outputs[name][row] for name in ("boxes", "scores", "kinds"))
        order = [index for index in np.argsort(-scores, kind="stable") if scores[index] >= max(self.least, 1e-6)]
        detections = [
            {
                "label": self.labels[int(kinds[index])],
                "score": float(scores[index]),
                "box": {side: float(value) for side, value in zip(_SIDES, boxes[index], strict=True)},
            }
            for index in order
        ]
        counts = {label: sum(found["label"] == label for found in detections) for label in self.labels}
        return {"detections": detections, "counts": counts}
