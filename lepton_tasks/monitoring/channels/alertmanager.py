"""Alert channel `alertmanager`: Prometheus Alertmanager, which groups, routes, silences and inhibits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from lepton_tasks.core.finding import Severity
from lepton_tasks.core.secret import Secret
from lepton_tasks.core.watch_protocols import Alert
from lepton_tasks.monitoring.channels.posting import post

_LONGER = 2.0  # times the time until the reminder: the next check may be late
_NOTICE_SECONDS = 3600.0


class Alertmanager:
    """POST alerts to Alertmanager's API v2.

    Labels: ``alertname`` (Lepton), ``use_case``, ``environment``, ``monitor``, ``subject``, ``severity``.

    Args:
        url: Address of Alertmanager, e.g. ``http://127.0.0.1:9093``, or where it is kept.
        token: Sent as ``Authorization: Bearer``.
    """

    def __init__(self, url: str | Secret, token: Secret | None = None) -> None:
        self.url, self.token = url, token

    def send(self, alerts: Sequence[Alert]) -> None:
        """One request for all of them."""
        told = [entry for alert in alerts for entry in _entries(alert)]
        post(self.url, "/api/v2/alerts", told, token=self.token)


def _entries(alert: Alert) -> list[dict[str, Any]]:
    """The alert, and the end of the one with another severity: for Alertmanager labels make an alert what it is.

    Without an end it would take every alert for resolved after five minutes.
    """
    lasts = _NOTICE_SECONDS if alert.event == "repair" else alert.remind * _LONGER
    ends = alert.time if alert.event == "ended" else alert.time + lasts
    severity = alert.was if alert.event == "ended" and alert.was else alert.finding.severity
    entries = [_entry(alert, severity, ends)]
    if alert.was is not None and alert.was != severity:
        entries.append(_entry(alert, alert.was, alert.time))
    return entries


def _entry(alert: Alert, severity: Severity, ends: float) -> dict[str, Any]:
    labels = {
        "alertname": "LeptonRepair" if alert.event == "repair" else "Lepton",
        "use_case": alert.use_case,
        "environment": alert.environment,
        "monitor": alert.finding.monitor,
        "subject": alert.finding.subject,
        "severity": severity,
    }
    return {
        "labels": {name: value for name, value in labels.items() if value},  # it refuses empty ones
        "annotations": {"summary": alert.text, "description": alert.finding.message},
        "startsAt": _when(min(alert.since, ends)),
        "endsAt": _when(ends),
        "generatorURL": alert.url,
    }


def _when(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
