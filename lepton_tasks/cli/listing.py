"""`lepton list`: use cases, stages and components, read without importing them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

from lepton_tasks.core.catalogue import REGISTRIES
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import load_use_case
from lepton_tasks.stages.pipeline import every_stage


def listing(what: str) -> list[dict[str, Any]]:
    """Rows ``{"name", "about"}`` of one kind of thing; raises `ConfigError` for an unknown kind."""
    if what == "use_cases":
        return [_use_case(path) for path in sorted((project_root() / "configs" / "use_cases").glob("*.yaml"))]
    if what == "stages":
        return [{"name": stage.name, "about": _first_line(stage.function)} for stage in every_stage()]
    if what in REGISTRIES:
        return [{"name": n, "about": _first_line(path)} for n, path in sorted(REGISTRIES[what].entries.items())]
    raise ConfigError(f"nothing called {what!r} to list.", fix=did_you_mean(what, ["use_cases", "stages", *REGISTRIES]))


def _use_case(path: Path) -> dict[str, Any]:
    try:
        use_case = load_use_case(path)
    except LeptonError as error:
        return {"name": path.stem, "about": f"BROKEN: {error}", "ok": False, "file": str(path)}
    task = use_case.task.name if use_case.task else "data only"
    return {"name": use_case.name, "about": f"{use_case.title} ({task})", "ok": True, "file": str(path)}


def _first_line(path: str) -> str:
    """First line of an object's docstring, read from its source without importing it."""
    module, _, name = path.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
