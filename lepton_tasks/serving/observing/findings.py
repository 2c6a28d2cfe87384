"""Findings of the monitors as Prometheus gauges, if they share the server's state folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily

from lepton_tasks.core.finding import BOOK_FILE, SEVERITIES, ranks
from lepton_tasks.serving.observing.exposition import Merged

_MOST_VALUES = 50  # per model


def exposed_findings(folder: Path) -> bytes:
    """Prometheus exposition of each model's latest check; empty if no monitor has written.

    Args:
        folder: Contains the book of each model, ``<model>/watch.json``. Unreadable ones are skipped.
    """
    families = _Families()
    for path in sorted(folder.glob(f"*/{BOOK_FILE}")):
        try:
            families.add(path.parent.name, json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # malformed book: keep the other metrics
            continue
    return generate_latest(Merged(families.all())) if families.checked.samples else b""


class _Families:
    def __init__(self) -> None:
        self.severity = GaugeMetricFamily(
            "lepton_finding_severity",
            "Worst finding of a monitor that lasts: 0 ok, 1 warning, 2 critical.",
            labels=("model", "monitor"),
        )
        self.value = GaugeMetricFamily(
            "lepton_finding_value",
            "Figures of the latest check, in the unit named.",
            labels=("model", "monitor", "subject", "unit"),
        )
        self.checked = GaugeMetricFamily(
            "lepton_finding_timestamp_seconds", "Unix time of the latest check.", labels=("model", "version")
        )

    def add(self, model: str, book: Mapping[str, Any]) -> None:
        """Add a book's samples, all or none."""
        found, lasting = book["findings"], [one["finding"] for one in book["lasting"].values()]
        severities = [(finding["monitor"], SEVERITIES[0]) for finding in found]  # only lasting findings are severe
        severities += [(finding["monitor"], finding["severity"]) for finding in lasting]
        values = {
            (model, finding["monitor"], finding["subject"], finding["unit"]): float(finding["value"])
            for finding in found
            if finding["value"] is not None
        }
        checked = float(book["time"])
        for monitor, rank in ranks(severities).items():
            self.severity.add_metric((model, monitor), rank)
        for labels, value in list(values.items())[:_MOST_VALUES]:
            self.value.add_metric(labels, value)
        self.checked.add_metric((model, book["version"] or ""), checked)

    def all(self) -> Iterable[GaugeMetricFamily]:
        return (self.severity, self.value, self.checked)
