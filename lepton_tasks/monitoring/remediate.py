"""Choose a repair for a model's findings, carry it out, and record it."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import pydantic

from lepton_tasks.core.catalogue import MONITORS, REMEDIES
from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.finding import SEVERITIES, Finding, Severity
from lepton_tasks.core.watch_protocols import PastRepair, Plan, Remedy, Situation
from lepton_tasks.monitoring.alert import announce
from lepton_tasks.monitoring.book import home_of

HISTORY_FILE = "repairs.jsonl"
_MOST_REASONS = 3


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        MONITORS.check(name)
    return names


MonitorNames = Annotated[tuple[str, ...], pydantic.AfterValidator(_known)]
"""Names of monitors in the catalogue."""


@dataclasses.dataclass(frozen=True)
class Repair:
    """What one remedy would do or has done."""

    remedy: str
    plan: Plan
    outcome: str | None = None

    @property
    def text(self) -> str:
        """One line for people."""
        about = reason(self.plan.findings)
        if self.outcome is not None:
            return f"{self.remedy}: {self.outcome} Reason: {about}"
        if self.plan.obstacle:
            return f"{self.remedy}: not now: {self.plan.obstacle} Reason to {self.plan.what}: {about}"
        return f"{self.remedy}: would {self.plan.what}. Reason: {about}"


def reason(findings: Sequence[Finding]) -> str:
    """The findings in one sentence, of many the first."""
    more = f"; and {len(findings) - _MOST_REASONS} more" if len(findings) > _MOST_REASONS else ""
    return "; ".join(finding.message for finding in findings[:_MOST_REASONS]) + more


def answered(
    situation: Situation, monitors: Collection[str], severity: Severity
) -> tuple[tuple[Finding, ...], float | None]:
    """The findings of these monitors that are at least so severe, and the latest time at which one became so."""
    least = SEVERITIES.index(severity)
    found = [
        (finding, risen)
        for finding, risen in situation.findings
        if finding.monitor in monitors and SEVERITIES.index(finding.severity) >= least
    ]
    return tuple(finding for finding, _ in found), max((risen for _, risen in found), default=None)


def repair(situation: Situation, *, dry_run: bool = False) -> list[Repair]:
    """What each remedy says to the findings, in the order of the use case; the first that can acts, and no other.

    Whether an action helped is seen at the next check, so there is one action a check.

    Raises:
        LeptonError: as the action raised it, after it was noted as failed.
    """
    repairs: list[Repair] = []
    acted = ""
    for i, spec in enumerate(situation.use_case.watch.remedies):
        where = f"{situation.use_case.name}.yaml: watch.remedies.{i}"
        remedy = REMEDIES.build(spec.name, spec.params, where=where)
        plan = remedy.applies(situation)
        if plan is None:
            continue
        if acted and not plan.obstacle:
            plan = dataclasses.replace(plan, obstacle=f"the next check must first show whether {acted} helped.")
        outcome = None
        if not plan.obstacle:
            acted = spec.name
            outcome = None if dry_run else _done(spec.name, remedy, plan, situation)
        repairs.append(Repair(spec.name, plan, outcome))
    return repairs


def _done(name: str, remedy: Remedy, plan: Plan, situation: Situation) -> str:
    use_case, ctx = situation.use_case, situation.ctx
    why = reason(plan.findings)
    version = str(situation.served["version"]) if situation.served else None
    past = PastRepair(uuid.uuid4().hex[:12], situation.now, name, version, "begun", plan.what, why)
    _note(ctx.root, use_case.name, past)  # first: what is killed half-way must not begin again at once
    try:
        outcome = remedy.act(plan, situation)
    except LeptonError as error:
        failed = dataclasses.replace(past, state="failed", outcome=str(error), error=type(error).__name__)
        _note(ctx.root, use_case.name, failed)
        announce(use_case, ctx, plan.findings, f"{name} failed: {error}")
        raise
    _note(ctx.root, use_case.name, dataclasses.replace(past, state="done", outcome=outcome))
    announce(use_case, ctx, plan.findings, f"{name}: {outcome} Reason: {why}")
    return outcome


def history(root: Path, use_case: str) -> list[PastRepair]:
    """What was done about a model, oldest first, each as it ended; a line that was cut off by a crash is left out."""
    found: dict[str, PastRepair] = {}
    try:
        text = (home_of(root, use_case) / HISTORY_FILE).read_text()
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            past = PastRepair(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[past.id] = past
    return list(found.values())


def _note(root: Path, use_case: str, past: PastRepair) -> None:
    home = home_of(root, use_case)
    home.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(past)) + "\n"
    with (home / HISTORY_FILE).open("ab+") as stream:
        stream.seek(max(0, stream.tell() - 1))
        whole = stream.read() in (b"", b"\n")  # else a crash cut off the line before
        stream.write((line if whole else "\n" + line).encode())


def of_remedy(past: Sequence[PastRepair], name: str, *, since: float = 0.0) -> list[PastRepair]:
    """What one remedy did since a Unix time."""
    return [one for one in past if one.remedy == name and one.time >= since]
