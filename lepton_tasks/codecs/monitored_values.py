"""Values of samples and predictions that monitors compare with the training data, computed alike on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.protocols import Codec, Observing

if TYPE_CHECKING:
    import numpy as np

MAX_VALUES, MAX_VALUE_LENGTH = 100, 200
"""Limits per sample and per text, which keep the lines of the request log short."""

PREDICTION_FIELDS = ("label", "probability", "value", "score", "is_anomaly", "boxes")
"""All possible keys of `prediction_values`."""


def sample_values(codec: Codec, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
    """Monitored values of one sample by name, as JSON values; empty if the codec defines none.

    Args:
        codec: The input codec.
        payload: Encoded sample.
        sample: Decoded sample.
    """
    if not isinstance(codec, Observing):
        return {}
    values = list(codec.observe(payload, sample).items())[:MAX_VALUES]
    return {name: _short(value) for name, value in values}


def prediction_values(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Monitored values of a prediction: ``label`` and ``probability`` (or None), a single number as ``value``, an
    anomaly's ``score`` and ``is_anomaly``, the number of ``boxes``.

    Args:
        answer: From the output codec.
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
    """The value as every JSON serialiser accepts it: without lone surrogates or integers above 64 bits."""
    if isinstance(value, str):
        return value[:MAX_VALUE_LENGTH].encode("utf-8", "replace").decode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value
