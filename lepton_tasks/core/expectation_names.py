"""Check the names of Great Expectations' rules in a use case, without importing the library (over 2 s)."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import UseCase


def check_expectations(use_case: UseCase, *, where: str) -> None:
    """Raise `ConfigError` for the first unknown expectation under `quality`; none if the library is not installed."""
    for section, rules in use_case.quality:
        for i, rule in enumerate(rules):
            if (known := _names()) and rule.type not in known:
                at = f"{where}: quality.{section}.{i}.type"
                raise ConfigError(f"no expectation named {rule.type!r}.", where=at, fix=did_you_mean(rule.type, known))


@functools.cache
def _names() -> frozenset[str]:
    """The expectations of the library: each is a module of its name."""
    spec = importlib.util.find_spec("great_expectations")
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(path.stem for path in (Path(spec.origin).parent / "expectations" / "core").glob("expect_*.py"))
