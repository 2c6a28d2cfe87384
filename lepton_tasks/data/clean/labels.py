"""Cleaning steps for missing and unknown labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
import pydantic

from lepton_tasks.core.registry import did_you_mean


class Unlabelled:
    """Reject rows with a missing or blank label."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """A constant reason."""
        return [None if label and label.strip() else "no label" for label in probes["label"].to_pylist()]


@dataclasses.dataclass(frozen=True)
class Labels:
    """Reject rows with a label, or a box label, that is not in the known list.

    Rows and boxes without label pass: see `unlabelled`.

    Args:
        known: The allowed labels.
    """

    known: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The first unknown label and the closest known one."""
        rows = [[label] for label in probes["label"].to_pylist()]
        if "boxes" in probes.column_names:
            for labels, boxes in zip(rows, probes["boxes"].to_pylist(), strict=True):
                labels += [box["label"] for box in boxes or ()]
        return [self._reason(labels) for labels in rows]

    def _reason(self, labels: Sequence[str | None]) -> str | None:
        unknown = next((label for label in labels if label and label.strip() and label not in self.known), None)
        return unknown and f"unknown label {unknown!r}. {did_you_mean(unknown, self.known)}"
