"""The section `compress` of a use case."""

from __future__ import annotations

from typing import Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section


class Compress(Section):
    """Candidates for a smaller or faster graph, and the tolerated loss.

    The exported graph is always a candidate, and is kept if no other one is within the limits.
    """

    candidates: tuple[ComponentSpec, ...] = (ComponentSpec(name="int8_static"), ComponentSpec(name="int8_dynamic"))
    """Compressions to try, each on its own; see `lepton list compressions`."""
    max_metric_drop: float = pydantic.Field(0.01, ge=0)
    """Largest loss of the gate's metric on the validation split, in the metric's unit; twice that on the test split,
    which is not used to choose."""
    max_mismatch: float = pydantic.Field(0.05, ge=0, le=1)
    """Largest fraction of predicted labels that differ from the exported graph's."""
    max_slowdown: float = pydantic.Field(1.1, gt=0)
    """Largest latency of one row, relative to the exported graph."""
    prefer: Literal["size", "latency"] = "size"
    """Which graph within the limits to choose: the smallest or the fastest."""
    rows: int = pydantic.Field(2_000, ge=1)
    """Maximum number of rows per split to evaluate candidates on."""
