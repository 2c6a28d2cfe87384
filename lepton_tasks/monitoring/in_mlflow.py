"""Show checks in MLflow: figures over time on the run of the version that is watched, its report, and its severity."""

from __future__ import annotations

import dataclasses
import datetime as dt
import http.client
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.core.finding import SEVERITIES, Finding, ranks, worst
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.book import Book, home_of, key_of, locked
from lepton_tasks.tracking import registry
from lepton_tasks.tracking.runs import Point, log_points, upload

FOLDER = "monitoring"
"""Of the run's artifacts, and before the names of its metrics."""
SEVERITY, CHECKED = "lepton.severity", "lepton.checked"
"""Tags of a version: the severity of its latest check, and when it was with what was not ok."""

_NOTES = "mlflow.json"
_KEPT = 200  # checks that wait for MLflow: a week of hourly ones
_EACH, _THEN = 500, 24  # of a version: each of so many checks is drawn, about three weeks; then one of so many, a day's
_LONGEST = 250  # characters of a metric's name, of MLflow


def show(
    use_case: UseCase,
    ctx: RunContext,
    findings: Sequence[Finding],
    book: Book,
    *,
    version: str | None,
    report: Iterable[Path] = (),
) -> None:
    """Log a check on the run of the version, and those that MLflow has not taken yet. Never fails the check.

    MLflow keeps every figure for good, 30 or so of a check. So after the first `_EACH` checks of a version, figures are
    logged only of one check in `_THEN`, and of each that is more or less severe than the one logged before.

    Figures wait while MLflow is away, of the latest checks; of reports and tags only the newest counts. What MLflow
    has no version or run for is dropped, and said.

    Args:
        use_case: Whose model was checked.
        ctx: The run that checked it.
        findings: What was found.
        book: What is known after it: a check that can judge nothing leaves the version as severe as it was.
        version: The version that was watched; None if nobody knows.
        report: Files of the check.
    """
    if version is None:
        return
    since = book.version_since if version == book.version else 0.0
    bad = {key_of(one.finding): one.finding for one in book.lasting.values() if one.since >= since}
    bad |= {key_of(finding): finding for finding in findings if finding.severity != "ok"}
    now, url = ctx.clock().timestamp(), ctx.environment.tracking_url
    with locked(ctx.root, use_case.name):
        path = home_of(ctx.root, use_case.name) / _NOTES
        notes = json.loads(path.read_text()) if path.exists() else {"steps": {}, "waiting": []}
        step = notes["steps"][version] = notes["steps"].get(version, 0) + 1
        waiting, told = list(notes["waiting"]), notes.setdefault("told", {})
        if step <= _EACH or step % _THEN == 0 or told.get(version) != worst(findings):
            told[version] = worst(findings)
            waiting.append({"of": version, **dataclasses.asdict(Point(now, step, figures_of(findings)))})
        if len(waiting) > _KEPT:
            ctx.log.warning("MLflow is away for long: the figures of the oldest check that waited for it are dropped.")
        waiting = waiting[-_KEPT:]
        try:
            run_id = _log(url, use_case.name, version, waiting, ctx)
            waiting = []
            if run_id is not None:
                upload(url, run_id, {f"{FOLDER}/{file.name}": file for file in report})
                registry.set_tag(url, use_case.name, version, SEVERITY, worst(bad.values()))
                registry.set_tag(url, use_case.name, version, CHECKED, _in_words(bad.values(), now))
        except (LeptonError, OSError, ValueError, KeyError, http.client.HTTPException) as error:
            why = error.what if isinstance(error, UnavailableError) else repr(error)
            ctx.log.warning("MLflow does not show this check (%d wait for the next one): %s", len(waiting), why)
        write_json(path, {**notes, "waiting": waiting})


def _log(url: str, name: str, current: str, waiting: Sequence[dict[str, Any]], ctx: RunContext) -> str | None:
    """Log what waits, by version; returns the run of the current one, if it has one."""
    run_id = None
    for version in dict.fromkeys([current, *(one["of"] for one in waiting)]):
        points = [Point(one["time"], one["step"], one["figures"]) for one in waiting if one["of"] == version]
        found = registry.version(url, name, version)
        try:
            if found is None or not found.get("run_id"):
                raise FileNotFoundError
            log_points(url, found["run_id"], points)
        except FileNotFoundError:
            ctx.log.warning(
                "MLflow has no run of version %s any more; dropped are the figures of checks: %d", version, len(points)
            )
            continue
        if version == current:
            run_id = str(found["run_id"])
    return run_id


def figures_of(findings: Iterable[Finding]) -> dict[str, float]:
    """The figures of a check by metric, e.g. ``monitoring/drift/alcohol PSI``, and the severity of each monitor."""
    figures: dict[str, float] = {}
    findings = list(findings)
    for finding in findings:
        monitor = finding.monitor
        told = {} if finding.value is None else {finding.subject: finding.value}
        for subject, value in {**(finding.figures or {}), **told}.items():
            if math.isfinite(value) and (subject or not finding.figures):
                figures.setdefault(_name(monitor, subject, finding.unit), float(value))
    severe = ranks((finding.monitor, finding.severity) for finding in findings)
    severities = {_name(monitor, "severity", "0 ok 1 warning 2 critical"): rank for monitor, rank in severe.items()}
    return {**figures, **severities}


def _name(monitor: str, subject: str, unit: str) -> str:
    """A name that MLflow takes; it makes a section of what comes before the last slash."""
    words = (subject.replace("/", "_"), "" if unit == subject else unit)
    told = re.sub(r"[^\w.\- ]+", "", " ".join(filter(None, words))).strip(" .") or "value"
    return f"{FOLDER}/{monitor}/{told}"[:_LONGEST]


def _in_words(bad: Iterable[Finding], now: float) -> str:
    ordered = sorted(bad, key=lambda one: -SEVERITIES.index(one.severity))
    told = "; ".join(f"{one.severity} {' '.join(filter(None, (one.monitor, one.subject)))}" for one in ordered)
    return f"{dt.datetime.fromtimestamp(now, dt.UTC):%Y-%m-%d %H:%M} UTC: {told or 'ok'}"
