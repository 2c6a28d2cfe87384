"""Protocols of alert channels and remedies, which act on findings."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lepton_tasks.core.finding import SEVERITIES, Finding, Severity

if TYPE_CHECKING:
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.use_case import UseCase

_MAX_LINES = 10

Event = Literal["began", "rose", "continues", "ended", "repair"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert, sent once for each event of a finding.

    Attributes:
        use_case: Name of the use case.
        environment: Name of the environment.
        version: The served version; None if unknown.
        event: What happened to the finding, or ``repair`` for a remedy's action.
        finding: Its current state; the last one if it has ended.
        was: Its severity at the previous alert; None at the first.
        since: Unix time of its first occurrence.
        time: Unix time of the event.
        remind: Seconds after which the alert is repeated if the finding persists.
        url: A page with details.
    """

    use_case: str
    environment: str
    version: str | None
    event: Event
    finding: Finding
    was: Severity | None
    since: float
    time: float
    remind: float
    url: str = ""

    @property
    def text(self) -> str:
        """The alert as one human-readable line."""
        finding = self.finding
        named = finding.subject and finding.subject not in finding.message
        about = f"{finding.monitor} of {finding.subject}" if named else finding.monitor
        begun = dt.datetime.fromtimestamp(self.since, dt.UTC)
        what = {
            "began": f"{about}: {finding.message}",
            "rose": f"{about}, worse than before ({self.was}): {finding.message}",
            "continues": f"{about}, since {begun:%d %b %H:%M} UTC: {finding.message}",
            "ended": f"{about}, since {begun:%d %b %H:%M} UTC, has ended. It was: {finding.message}",
            "repair": f"{about}: {finding.message}",
        }[self.event]
        head = {"ended": "resolved", "repair": "repair"}.get(self.event, finding.severity)
        version = f" version {self.version}" if self.version else ""
        return f"[{head}] {self.use_case}{version} ({self.environment}): {what}"

    def as_json(self) -> dict[str, Any]:
        """The alert as JSON values."""
        return {**dataclasses.asdict(self), "finding": self.finding.as_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Alert:
        """Inverse of `as_json`."""
        return cls(**{**values, "finding": Finding(**values["finding"])})


def alert_lines(alerts: Sequence[Alert]) -> list[str]:
    """The alerts as lines, worst first, at most ten and a count of the rest."""
    ordered = sorted(alerts, key=lambda alert: (alert.event == "ended", -SEVERITIES.index(alert.finding.severity)))
    more = [f"and {len(alerts) - _MAX_LINES} more"] if len(alerts) > _MAX_LINES else []
    return [alert.text for alert in ordered[:_MAX_LINES]] + more


@runtime_checkable
class AlertChannel(Protocol):
    """Sends alerts. Built with the params in the environment file."""

    def send(self, alerts: Sequence[Alert]) -> None:
        """Send all alerts, in one message where possible.

        After an exception all are sent again at the next check. Its message must contain no secret.
        """


@dataclasses.dataclass(frozen=True)
class PastRepair:
    """An earlier repair.

    `time` is Unix time; `state` is ``begun``, ``done`` or ``failed``; `error` is the error's class.
    """

    id: str
    time: float
    remedy: str
    version: str | None
    state: str
    what: str
    why: str
    outcome: str = ""
    error: str = ""


@runtime_checkable
class Trainer(Protocol):
    """Runs the pipeline of the use case: Airflow, or the command line."""

    def obstacle(self) -> str:
        """Why no run can start now, e.g. because one is in progress; empty if it can."""

    def unchanged(self) -> bool:
        """Whether data, settings and code equal those of an earlier training, which would give the same model."""

    def start(self, why: str) -> str:
        """Start a run, or complete one; returns a message about it.

        Raises:
            StageError: the run started and failed.
            LeptonError: no run started.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of a remedy.

    Attributes:
        use_case: The use case of the model.
        ctx: The run context of the repair.
        findings: Findings that are not ok, each with the Unix time since which it has its severity.
        served: Result of `DeployTarget.health`; None if it does not answer.
        version_since: Unix time since which the champion is known.
        past: Earlier repairs, oldest first.
        trainer: Runs trainings.
        now: Unix time.
    """

    use_case: UseCase
    ctx: RunContext
    findings: Sequence[tuple[Finding, float]]
    served: Mapping[str, Any] | None
    version_since: float
    past: Sequence[PastRepair]
    trainer: Trainer
    now: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The action a remedy would take, and the findings it is for. With an `obstacle` it is only reported."""

    what: str
    findings: tuple[Finding, ...]
    obstacle: str = ""


@runtime_checkable
class Remedy(Protocol):
    """One way to repair findings. Built with the YAML's params."""

    def applies(self, situation: Situation) -> Plan | None:
        """The action it would take, or why it cannot; None if no finding concerns it. Changes nothing."""

    def act(self, plan: Plan, situation: Situation) -> str:
        """Execute the plan; returns a message about it. Raises `LeptonError` on failure."""
