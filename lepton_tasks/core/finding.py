"""What a monitor found: the typed result that reports, alerts and repairs share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from lepton_tasks.core.store import write_json

Severity = Literal["ok", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From harmless to worst."""
FINDINGS_FILE = "findings.json"
"""Of a monitor report: the findings, as a JSON list."""
MONITORING, BOOK_FILE = "monitoring", "watch.json"
"""Of the state folder: has a folder for each watched model, with what is known of it (`monitoring.book`)."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One answer of a monitor.

    Attributes:
        monitor: Name of the monitor in the catalogue.
        severity: ``critical`` needs an action, ``warning`` a look; ``ok`` is told for the record.
        message: A sentence for people, with its units.
        value: What was measured; None if nothing could be.
        limit: What `value` is held against; None without one.
        unit: Of both.
        subject: The column, label, metric or resource it is about; empty for the model as a whole.
        figures: Others in the same unit, by subject, that are recorded over time but not judged here; None for none.
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
    """The worst severity among them; ``ok`` for none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def write_findings(folder: Path, findings: Iterable[Finding]) -> None:
    """Write ``findings.json`` into a folder."""
    write_json(folder / FINDINGS_FILE, [finding.as_json() for finding in findings])


def read_findings(folder: Path) -> list[Finding]:
    """What `write_findings` wrote."""
    return [Finding(**values) for values in json.loads((folder / FINDINGS_FILE).read_text())]
