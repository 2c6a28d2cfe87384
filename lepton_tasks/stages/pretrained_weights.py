"""Digests of pretrained weight files, as part of a stage's fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import sha256_file
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.use_case_file import tuned_values

_KEY = "weights"


def weights_state(use_case: UseCase, ctx: RunContext, **refs: ArtifactRef) -> dict[str, str | None]:
    """SHA-256 of each weight file named by a network of the use case; None for a missing file."""
    root = Path(ctx.environment.data_root)
    spaces = [{key.rpartition(".")[2]: value} for key, value in tuned_values(use_case)]
    names = sorted(set(_weight_files([use_case.part("model", "compress"), spaces])))
    return {name: sha256_file(root / name) if (root / name).is_file() else None for name in names}


def _weight_files(tree: Any) -> Iterator[str]:
    """Values of the key `weights` at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == _KEY and isinstance(value, str):
                yield value
            else:
                yield from _weight_files(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _weight_files(value)
