"""Alert channel `log`: the log of the task or command."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lepton_tasks.core.watch_protocols import Alert

_LEVELS = {"ok": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


class Log:
    """Write alerts to the log, as errors if critical and as warnings otherwise."""

    def send(self, alerts: Sequence[Alert]) -> None:
        """One line for each."""
        log = logging.getLogger("lepton.alert")
        for alert in alerts:
            log.log(logging.INFO if alert.event == "ended" else _LEVELS[alert.finding.severity], "%s", alert.text)
