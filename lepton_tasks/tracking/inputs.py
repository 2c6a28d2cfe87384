"""Data sets of an MLflow run: the splits it read, and their use."""

from __future__ import annotations

import dataclasses
import json

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.use_case import UseCase

_CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}
_MAX_DIGEST = 36  # characters, MLflow's limit


@dataclasses.dataclass(frozen=True)
class DataInput:
    """A split of the features.

    Attributes:
        name: ``<use case> <split>``.
        digest: First characters of the features' digest, which changes with the data, the split and the preparation.
        context: ``training``, ``validation`` or ``testing``.
        source_type: Name of the use case's source.
        source: Its parameters, as JSON.
        rows: Number of rows; None if unknown.
    """

    name: str
    digest: str
    context: str
    source_type: str
    source: str
    rows: int | None

    @classmethod
    def of(cls, use_case: UseCase, features: DatasetRef, split: str) -> DataInput:
        """One split of a use case's features."""
        source = use_case.data.source
        rows = features.facts.get(f"{split}_rows")
        return cls(
            name=f"{use_case.name} {split}",
            digest=features.digest[:_MAX_DIGEST],
            context=_CONTEXTS[split],
            source_type=source.name,
            source=json.dumps(source.params, default=str),
            rows=rows if isinstance(rows, int) else None,
        )

    @property
    def profile(self) -> str | None:
        """Profile for MLflow's page, as JSON."""
        return None if self.rows is None else json.dumps({"num_rows": self.rows})
