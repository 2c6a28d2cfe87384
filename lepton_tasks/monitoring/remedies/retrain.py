"""Remedy `retrain`: run the pipeline again; its gate decides whether the new model replaces the champion."""

from __future__ import annotations

from typing import Annotated

import pydantic

from lepton_tasks.core.errors import StageError
from lepton_tasks.core.finding import Severity
from lepton_tasks.core.watch_protocols import Plan, Situation
from lepton_tasks.monitoring.remediate import MonitorNames, answered, of_remedy, reason

_HOUR, _WEEK = 3600.0, 7 * 24 * 3600.0


class Retrain:
    """Run the pipeline again, if data, settings or code have changed since the last training.

    Args:
        monitors: Monitors whose findings it applies to.
        severity: Minimum severity of those findings.
        cool_down_hours: Hours from one retraining to the next.
        max_per_week: Maximum number of retrainings within seven days.
    """

    def __init__(
        self,
        monitors: MonitorNames = ("data_quality", "drift", "performance"),
        severity: Severity = "critical",
        cool_down_hours: Annotated[float, pydantic.Field(ge=0)] = 24.0,
        max_per_week: Annotated[int, pydantic.Field(ge=1)] = 2,
    ) -> None:
        self.monitors, self.severity = monitors, severity
        self.cool_down_hours, self.max_per_week = cool_down_hours, max_per_week

    def applies(self, situation: Situation) -> Plan | None:
        """A new training; the obstacle is a limit, a run that goes on, or that nothing has changed."""
        findings, _ = answered(situation, self.monitors, self.severity)
        if not findings:
            return None
        return Plan("train again", findings, self._limit(situation) or self._hindrance(situation))

    def act(self, plan: Plan, situation: Situation) -> str:
        """Start the run."""
        return situation.trainer.start(reason(plan.findings))

    def _limit(self, situation: Situation) -> str:
        now = situation.now
        asked = of_remedy(situation.past, "retrain", since=now - _WEEK)
        week = [one for one in asked if one.error in ("", StageError.__name__)]  # with others, no run began
        if week and (hours := (now - week[-1].time) / _HOUR) < self.cool_down_hours:
            return f"the last retraining began {hours:.1f} h ago; {self.cool_down_hours:g} h must pass."
        if len(week) >= self.max_per_week:
            return f"there were {len(week)} retrainings in the last seven days, which is the limit."
        return ""

    def _hindrance(self, situation: Situation) -> str:
        if situation.served is None:
            return "the server does not answer, so nothing could be deployed."
        if situation.trainer.unchanged():
            return (
                "data, settings and code are unchanged since the last training: "
                "retraining would produce the same model."
            )
        return situation.trainer.obstacle()
