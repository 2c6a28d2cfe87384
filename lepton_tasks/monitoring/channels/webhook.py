"""Alert channel `webhook`: a JSON POST, also as chat services take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lepton_tasks.core.secret import Secret
from lepton_tasks.core.watch_protocols import Alert, alert_lines
from lepton_tasks.monitoring.channels.posting import post


class Webhook:
    """POST one JSON object per check; also to incoming webhooks of Slack, Mattermost and Teams.

    Args:
        url: Address, or where it is kept: ``{env: VARIABLE}`` or ``{file: PATH}``. Those of chat services are secrets.
        token: Sent as ``Authorization: Bearer``.
        form: ``json`` sends ``text`` and ``alerts``, a list with all details; ``text`` sends ``text`` alone.
    """

    def __init__(self, url: str | Secret, token: Secret | None = None, form: Literal["json", "text"] = "json") -> None:
        self.url, self.token, self.form = url, token, form

    def send(self, alerts: Sequence[Alert]) -> None:
        """One request for all of them."""
        body: dict[str, Any] = {"text": "\n".join(alert_lines(alerts))}
        if self.form == "json":
            body["alerts"] = [alert.as_json() for alert in alerts]
        post(self.url, "", body, token=self.token)
