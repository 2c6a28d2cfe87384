"""Protocols of what follows a finding: alert channels and remedies."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lepton_tasks.core.finding import SEVERITIES, Finding, Severity

if TYPE_CHECKING:
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.use_case import UseCase

_MOST_LINES = 10

Event = Literal["began", "rose", "continues", "ended", "repair"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alert:
    """An alert, sent once for each event of a finding.

    Attributes:
        use_case: Whose model it is about.
        environment: Name of the environment it runs in.
        version: The version that is served; None if nobody knows.
        event: What happened to the finding, or ``repair`` for what was done about one.
        finding: As it is now; the last one seen if it has ended.
        was: Its severity at the last alert; None at the first.
        since: Unix time at which it was first seen.
        time: Unix time of the event.
        remind: Seconds after which it is told again if it lasts.
        url: A page to look at.
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
        """One line for people."""
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
        """What `as_json` gave."""
        return cls(**{**values, "finding": Finding(**values["finding"])})


def in_lines(alerts: Sequence[Alert]) -> list[str]:
    """The alerts for people, the worst first; of many only the first."""
    ordered = sorted(alerts, key=lambda alert: (alert.event == "ended", -SEVERITIES.index(alert.finding.severity)))
    more = [f"and {len(alerts) - _MOST_LINES} more"] if len(alerts) > _MOST_LINES else []
    return [alert.text for alert in ordered[:_MOST_LINES]] + more


@runtime_checkable
class AlertChannel(Protocol):
    """A place where alerts go. Built with the params in the environment file."""

    def send(self, alerts: Sequence[Alert]) -> None:
        """Send all of them, in one message where possible.

        Whatever it raises means that none arrived: all are sent again at the next check. Its text must hold no secret.
        """


@dataclasses.dataclass(frozen=True)
class Past:
    """An earlier repair.

    `time` is Unix time; `state` is ``begun``, ``done`` or ``failed``, with the class of the `error`.
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
        """Why no run can begin now, e.g. that one goes on; empty if it can."""

    def unchanged(self) -> bool:
        """Whether data, settings and code are those of an earlier training, so that the same model would come out."""

    def start(self, why: str) -> str:
        """Begin a run, or do one; returns what to tell about it.

        Raises:
            StageError: the run began, and failed.
            LeptonError: any other: no run began, so there was no retraining.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of a remedy.

    Attributes:
        use_case: Whose model it is about.
        ctx: The run that repairs.
        findings: Those not ok, with the Unix time since which each has its severity.
        served: What `DeployTarget.health` says; None if it does not answer.
        version_since: Unix time since which the champion is seen.
        past: What was done, oldest first.
        trainer: Who can train.
        now: Unix time.
    """

    use_case: UseCase
    ctx: RunContext
    findings: Sequence[tuple[Finding, float]]
    served: Mapping[str, Any] | None
    version_since: float
    past: Sequence[Past]
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
        """What it would do, or why it cannot; None if none of the findings is its business. Changes nothing."""

    def act(self, plan: Plan, situation: Situation) -> str:
        """Do it; returns what to tell about it. Raises `LeptonError` if it failed."""
