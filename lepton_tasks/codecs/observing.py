"""Request statistics that monitors compare with the training data, computed the same way on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.protocols import Codec, Observing

if TYPE_CHECKING:
    import numpy as np

MOST_VALUES, LONGEST_VALUE = 100, 200
"""Values of a sample, and characters of a text among them, that are kept: a line of the request log stays short."""

ANSWERED = ("label", "probability", "value", "score", "is_anomaly", "boxes")
"""What is kept of an answer, where it has it."""


def observed(codec: Codec, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
    """A few values of one sample by name, as JSON values; empty if the codec defines none.

    Args:
        codec: What decoded it.
        payload: The request's bytes.
        sample: What they were decoded to.
    """
    if not isinstance(codec, Observing):
        return {}
    values = list(codec.observe(payload, sample).items())[:MOST_VALUES]
    return {name: _short(value) for name, value in values}


def answered(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A few values of an answer by name: ``label`` and ``probability`` (None without), a lone number as ``value``, the
    ``score`` of an anomaly and whether it ``is_anomaly``, how many ``boxes`` were found.

    Args:
        answer: As the output codec gives it.
    """
    kept = {"label": answer.get("label"), "probability": answer.get("probability")}
    if len(answer) == 1 and isinstance(number := next(iter(answer.values())), float):
        kept["value"] = number
    elif "is_anomaly" in answer:
        kept |= {"score": answer["score"], "is_anomaly": answer["is_anomaly"]}
    elif "detections" in answer:
        kept["boxes"] = len(answer["detections"])
    return kept


def _short(value: Any) -> Any:
    """The value as any JSON writer takes it: no half characters, no whole number above 64 bits."""
    if isinstance(value, str):
        return value[:LONGEST_VALUE].encode("utf-8", "replace").decode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value
