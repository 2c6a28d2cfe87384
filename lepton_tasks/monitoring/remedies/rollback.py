"""Remedy `rollback`: return to the previous version if the new one caused the problem."""

from __future__ import annotations

from typing import Annotated

import pydantic

from lepton_tasks.core.components import deploy_target_of
from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.finding import Severity
from lepton_tasks.core.watch_protocols import Plan, Situation
from lepton_tasks.monitoring.remediate import MonitorNames, answered, of_remedy, reason
from lepton_tasks.tracking import registry

_HOUR = 3600.0


class Rollback:
    """Go back to the previous version if a finding about live performance began soon after the last deployment.

    It never returns to a version that it rolled back, so it does not alternate.

    Args:
        monitors: Monitors whose findings it applies to.
        severity: Minimum severity of those findings.
        within_hours: Hours after a deployment within which a new finding is attributed to it.
    """

    def __init__(
        self,
        monitors: MonitorNames = ("performance",),
        severity: Severity = "critical",
        within_hours: Annotated[float, pydantic.Field(gt=0)] = 24.0,
    ) -> None:
        self.monitors, self.severity, self.within_hours = monitors, severity, within_hours

    def applies(self, situation: Situation) -> Plan | None:
        """The previous version; the obstacle is that there is none, or that the trouble did not come with this one."""
        findings, began = answered(situation, self.monitors, self.severity)
        if not findings or began is None:
            return None
        served = situation.served
        if served is None or not served.get("version"):
            return Plan("go back to the previous version", findings, "the server does not report what it serves.")
        previous = served.get("previous")
        what = f"go back from version {served['version']} to {previous}" if previous else "go back"
        return Plan(what, findings, self._obstacle(situation, began, str(served["version"]), previous))

    def act(self, plan: Plan, situation: Situation) -> str:
        """Let the previous version answer, then move the registry's aliases and note the reason at the version."""
        use_case, ctx = situation.use_case, situation.ctx
        url = ctx.environment.tracking_url
        served = deploy_target_of(use_case, ctx.environment).rollback(use_case, ctx)
        bad = str((situation.served or {})["version"])
        told = f"version {served['version']} is served again instead of version {bad}."
        try:
            registry.set_champion(url, use_case.name, served["version"], served["previous"])
            registry.set_tag(url, use_case.name, bad, registry.ROLLED_BACK, reason(plan.findings))
        except LeptonError as error:  # what answers matters most; a server that follows the registry tells it itself
            return f"{told} The registry has not been updated yet: {error}"
        return told

    def _obstacle(self, situation: Situation, began: float, version: str, previous: str | None) -> str:
        if situation.served and situation.served.get("challenger"):
            return "a rollout is in progress and judges the new version itself."
        if not previous:
            return "there is no previous version."
        gone = {one.version for one in of_remedy(situation.past, "rollback") if one.state == "done"}
        if str(previous) in gone:
            return f"version {previous} was itself rolled back before."
        if began < situation.version_since:
            return f"it began before version {version} was deployed."
        if (hours := (began - situation.version_since) / _HOUR) > self.within_hours:
            return f"it began {hours:.0f} h after version {version} was deployed, so the version is not the cause."
        return ""
