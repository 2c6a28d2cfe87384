"""Pretrained weight files of a use case, as inputs of its fingerprint."""

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
    """The sha256 of each file of weights that a network of the use case names; None for one that is not there."""
    root = Path(ctx.environment.data_root)
    spaces = [{key.rpartition(".")[2]: value} for key, value in tuned_values(use_case)]
    named = sorted(set(_named([use_case.part("model", "compress"), spaces])))
    return {name: sha256_file(root / name) if (root / name).is_file() else None for name in named}


def _named(tree: Any) -> Iterator[str]:
    """What stands under the key `weights`, however deep."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == _KEY and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _named(value)
