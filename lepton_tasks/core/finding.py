"""Findings of monitors, shared by reports, alerts and remedies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from lepton_tasks.core.store import write_json

Severity = Literal["ok", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""In increasing order."""
FINDINGS_FILE = "findings.json"
"""File of a monitor report: the findings as a JSON list."""
MONITORING, BOOK_FILE = "monitoring", "watch.json"
"""In the state folder: a folder per watched model, and the file with its watch state (`monitoring.book`)."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a monitor.

    Attributes:
        monitor: Name of the monitor in the catalogue.
        severity: ``critical`` needs action, ``warning`` attention; ``ok`` is for the record.
        message: A human-readable sentence with units.
        value: The measured value; None if it could not be measured.
        limit: The limit of `value`; None without one.
        unit: Unit of both.
        subject: The column, label, metric or resource concerned; empty for the model as a whole.
        figures: Further values in the same unit, by subject, recorded over time without a limit; None for none.
    """

    monitor: str
    severity: Severity
    message: str
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    subject: str = ""
    figures: Mapping[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON values."""
        values = dataclasses.asdict(self)
        if self.figures is None:
            del values["figures"]
        return values


def worst(findings: Iterable[Finding]) -> Severity:
    """The highest severity; ``ok`` for no findings."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def ranks(severities: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The place in `SEVERITIES` of the worst of each monitor, from pairs of a monitor and a severity."""
    found: dict[str, int] = {}
    for monitor, severity in severities:
        found[monitor] = max(found.get(monitor, 0), SEVERITIES.index(severity))
    return found


def write_findings(folder: Path, findings: Iterable[Finding]) -> None:
    """Write ``findings.json`` into a folder."""
    write_json(folder / FINDINGS_FILE, [finding.as_json() for finding in findings])
