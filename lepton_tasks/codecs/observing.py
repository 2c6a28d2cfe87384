"""Request statistics that monitors compare with the training data, computed the same way on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_tasks.core.protocols import Codec, Observing

if TYPE_CHECKING:
    import numpy as np

MOST_VALUES, LONGEST_VALUE = 100, 200
"""Values of a sample, and characters of a text among them, that are kept: a line of the request log stays short."""


def observed(codec: Codec, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
    """A few values of one sample by name, as JSON values; none if the codec does not tell what they would be.

    Args:
        codec: What decoded it.
        payload: The request's bytes.
        sample: What they were decoded to.
    """
    if not isinstance(codec, Observing):
        return {}
    values = list(codec.observe(payload, sample).items())[:MOST_VALUES]
    return {name: _short(value) for name, value in values}


def _short(value: Any) -> Any:
    """The value as any JSON writer takes it: no half characters, no whole number above 64 bits."""
    if isinstance(value, str):
        return value[:LONGEST_VALUE].encode("utf-8", "replace").decode()
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value
