"""The section `compress` of a use case."""

from __future__ import annotations

from typing import Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section


class Compress(Section):
    """What is tried to make the exported graph smaller or faster, and what it may cost.

    The exported graph itself is always among the candidates, and stays if no other one keeps to the limits.
    """

    candidates: tuple[ComponentSpec, ...] = (ComponentSpec(name="int8_static"), ComponentSpec(name="int8_dynamic"))
    """Compressions of the catalogue, each tried by itself."""
    max_metric_drop: float = pydantic.Field(0.01, ge=0)
    """Largest allowed loss of the gate's metric on the validation split, in its own unit; on the test split, which is
    not chosen by, twice as much is allowed."""
    max_mismatch: float = pydantic.Field(0.05, ge=0, le=1)
    """Largest allowed share of answers with another label than the exported graph's, where answers have labels."""
    max_slowdown: float = pydantic.Field(1.1, gt=0)
    """Largest allowed latency of one row, in that of the exported graph."""
    prefer: Literal["size", "latency"] = "size"
    """Which of the graphs that keep to the limits is taken: the smallest, or the fastest."""
    rows: int = pydantic.Field(2_000, ge=1)
    """Most rows of a split that candidates are judged on."""
