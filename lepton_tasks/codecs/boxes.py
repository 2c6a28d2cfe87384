"""Output codec of object detection: boxes, scores and classes -> JSON answer."""

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
        labels: Names of the kinds, in the order of their numbers.
        least: Boxes with a lower score are left out.
    """

    labels: list[str]
    least: float = 0.3

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """``detections``, the surest first: ``label``, ``score`` and ``box``; and how many of each label.

        The sides of a box are shares of the picture's width and height, in [0, 1], so that they fit it at any size. Of
        features with ``resize: crop`` or ``pad``, they are shares of the picture as it was cut or padded.
        """
        boxes, scores, kinds = (outputs[name][row] for name in ("boxes", "scores", "kinds"))
        order = [place for place in np.argsort(-scores, kind="stable") if scores[place] >= max(self.least, 1e-6)]
        detections = [
            {
                "label": self.labels[int(kinds[place])],
                "score": float(scores[place]),
                "box": {side: float(value) for side, value in zip(_SIDES, boxes[place], strict=True)},
            }
            for place in order
        ]
        counts = {label: sum(found["label"] == label for found in detections) for label in self.labels}
        return {"detections": detections, "counts": counts}
