"""History of expectation results across the runs of a use case."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.quality.report_files import REPORT_FILE, report_folder

SHOWN_RUNS = 20
_MAX_NAME_LENGTH = 200  # characters: three lines of the page
_GOOD, _WARNED, _BAD, _ABSENT = "#2e9e5b", "#e8a33d", "#c8403a", "#e9ecef"


def reports_about(use_case: str, stage: str, root: Path) -> list[dict[str, Any]]:
    """Reports of a stage about a use case, oldest first, each with its ``folder``.

    Args:
        use_case: Name of the use case.
        stage: The stage.
        root: The state folder; it includes reports of failed checks in the stage's work folder.
    """
    kept = [report_folder(Path(), stage, "*", failed=failed) / REPORT_FILE for failed in (False, True)]
    paths = [path for pattern in kept for path in root.glob(str(pattern))]
    reports = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another run is replacing its artifact
            reports.append(json.loads(path.read_text()) | {"folder": str(path.parent)})
    found = [report for report in reports if report.get("use_case") == use_case]
    return sorted(found, key=lambda report: str(report["time"]))


def plot_history(reports: Sequence[dict[str, Any]], path: Path) -> Path:
    """Plot a square per expectation and run, with the share of violating rows; only the latest runs."""
    from matplotlib.figure import Figure

    reports = reports[-SHOWN_RUNS:]
    runs = [_named(report["outcomes"]) for report in reports]
    names = list(dict.fromkeys(name for run in runs for name in run))
    figure = Figure(figsize=(4.5 + 0.55 * len(reports), 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for x, found in enumerate(runs):
        for y, name in enumerate(names):
            outcome = found.get(name)
            axes.add_patch(_square(x, y, outcome))
            if outcome and outcome["share"]:
                axes.text(x, y, f"{outcome['share']:.1%}", ha="center", va="center", fontsize=6, color="white")
    axes.set_xlim(-0.5, len(reports) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    times = [str(report["time"])[5:16].replace("T", " ") for report in reports]
    axes.set_xticks(range(len(reports)), times, rotation=60, ha="right", fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle("green: met, amber: warning, red: failed; share of violating rows", fontsize=8, x=0.01, ha="left")
    figure.savefig(path, dpi=110)
    return path


def name_of(outcome: dict[str, Any]) -> str:
    """Short description of an expectation: column, rule and parameters."""
    params = ", ".join(f"{key} {_listed(value)}" for key, value in sorted(outcome["params"].items(), key=_param_order))
    text = _rule_of(outcome) + (f" ({params})" if params else "")
    return text if len(text) <= _MAX_NAME_LENGTH else text[: _MAX_NAME_LENGTH - 1] + "…"


def _param_order(param: tuple[str, Any]) -> tuple[bool, bool, str]:
    """Sort key of parameters: minimum before maximum, ``mostly`` last."""
    return param[0] == "mostly", param[0].startswith("max_"), param[0]


def _listed(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rule_of(outcome: dict[str, Any]) -> str:
    rule = outcome["type"].removeprefix("expect_").removeprefix("column_").removeprefix("values_to_")
    return f"{outcome['column'] or 'table'}: {rule.replace('_', ' ')}"


def _named(outcomes: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Outcomes by column and rule, which are stable across runs although bounds follow the data."""
    named: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        name = _rule_of(outcome)
        same = sum(other == name or other.startswith(f"{name} #") for other in named)
        named[f"{name} #{same + 1}" if same else name] = outcome
    return named


def _square(x: int, y: int, outcome: dict[str, Any] | None) -> Any:
    from matplotlib.patches import Rectangle

    if outcome is None:
        colour = _ABSENT
    elif outcome["success"]:
        colour = _GOOD
    else:
        colour = _BAD if outcome["severity"] == "critical" else _WARNED
    return Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, color=colour)
