"""`lepton list`: use cases, stages and components, read without importing them."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

from lepton_tasks.core.catalogue import REGISTRIES
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.pipeline import every_stage

_ALL_PARAMS = ("monitors", "alert_channels", "remedies")
"""Kinds whose parameters all come from YAML; other kinds get some from the stage that builds them."""


def listing(what: str) -> list[dict[str, Any]]:
    """Rows ``{"name", "about"}`` of one kind; raises `ConfigError` for an unknown kind.

    Rows of monitors, alert channels and remedies also have ``params``: each parameter's default in YAML syntax, None if
    the parameter is required.
    """
    if what == "use_cases":
        return [_use_case(path) for path in sorted((project_root() / "configs" / "use_cases").glob("*.yaml"))]
    if what == "stages":
        return [{"name": stage.name, "about": _first_line(_source(stage.function))} for stage in every_stage()]
    if what in REGISTRIES:
        return [_component(what, name, path) for name, path in sorted(REGISTRIES[what].entries.items())]
    raise ConfigError(f"nothing called {what!r} to list.", fix=did_you_mean(what, ["use_cases", "stages", *REGISTRIES]))


def _component(kind: str, name: str, path: str) -> dict[str, Any]:
    node = _source(path)
    row: dict[str, Any] = {"name": name, "about": _first_line(node)}
    return row | {"params": _params(node)} if kind in _ALL_PARAMS else row


def _use_case(path: Path) -> dict[str, Any]:
    try:
        use_case = load_use_case(path)
    except LeptonError as error:
        return {"name": path.stem, "about": f"BROKEN: {error}", "ok": False, "file": str(path)}
    task = use_case.task.name if use_case.task else "data only"
    return {"name": use_case.name, "about": f"{use_case.title} ({task})", "ok": True, "file": str(path)}


def _source(path: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The syntax tree of an object, read from its source without importing it."""
    module, _, name = path.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    return None


def _first_line(node: ast.ClassDef | ast.FunctionDef | None) -> str:
    """First line of an object's docstring."""
    return "" if node is None else (ast.get_docstring(node) or "").partition("\n")[0]


def _params(node: ast.ClassDef | ast.FunctionDef | None) -> dict[str, str | None]:
    """Parameters and defaults of a class, from its ``__init__`` or its fields."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    for part in body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            names = [argument.arg for argument in part.args.args[1:]]
            defaults: list[ast.expr | None] = [*part.args.defaults]
            missing: list[ast.expr | None] = [None] * (len(names) - len(defaults))
            return {name: _default(value) for name, value in zip(names, missing + defaults, strict=True)}
    fields = [part for part in body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return {field.target.id: _default(field.value) for field in fields}  # type: ignore[union-attr]  # checked above


def _default(value: ast.expr | None) -> str | None:
    return None if value is None else json.dumps(ast.literal_eval(value))
