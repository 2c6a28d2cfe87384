"""Load use case files and check the component names in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.components import check_names
from lepton_tasks.core.environment import use_case_file
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.settings import apply_overrides, read_yaml
from lepton_tasks.core.train_settings import Choices
from lepton_tasks.core.use_case import UseCase, parse_use_case


def load_use_case(path: Path, overrides: Mapping[str, Any] | None = None) -> UseCase:
    """Load a use case from a YAML file, apply dotted `overrides` and check all component names.

    Imports no component. Raises `ConfigError` naming file, key and value.
    """
    if not path.exists() and (meant := use_case_file(path.stem)).is_file():
        raise ConfigError("no such file.", where=str(path), fix=f"Did you mean {os.path.relpath(meant)}?")
    raw = apply_overrides(read_yaml(path), overrides or {})
    use_case = parse_use_case(raw, where=path.name)
    if use_case.name != path.stem:
        raise ConfigError(
            f"{use_case.name!r} differs from the file's name.", where=f"{path.name}: name", fix=f"Write {path.stem!r}."
        )
    check_names(use_case, where=path.name)
    for key, value in tuned_values(use_case):
        tried = parse_use_case(apply_overrides(raw, {key: value}), where=f"{path.name}: tune.space.{key}")
        check_names(tried, where=f"{path.name}: tune.space.{key}")
    return use_case


def tuned_values(use_case: UseCase) -> list[tuple[str, Any]]:
    """Every choice, and both ends of every range, of `tune.space`, with its key."""
    found: list[tuple[str, Any]] = []
    for key, space in (use_case.tune.space if use_case.tune else {}).items():
        values = space.choices if isinstance(space, Choices) else (space.low, space.high)
        found += [(key, value) for value in values]
    return found
