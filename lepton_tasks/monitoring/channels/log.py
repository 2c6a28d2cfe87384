"""Alert channel `log`: the log of the task or command."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lepton_tasks.core.watch_protocols import Alert


class Log:
    """Write alerts to the log: critical ones as errors, resolved ones as information, others as warnings."""

    def send(self, alerts: Sequence[Alert]) -> None:
        """One line for each."""
        log = logging.getLogger("lepton.alert")
        for alert in alerts:
            log.log(_level(alert), "%s", alert.text)


def _level(alert: Alert) -> int:
    if alert.event == "ended":
        return logging.INFO
    critical = alert.finding.severity == "critical" and alert.event != "repair"
    return logging.ERROR if critical else logging.WARNING
