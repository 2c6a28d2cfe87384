"""The book of a watched model: the latest findings, which of them last, and the alerts that are yet to be sent.

One JSON file a use case in the state folder, changed under a lock, whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.finding import BOOK_FILE, MONITORING, SEVERITIES, Finding, Severity
from lepton_tasks.core.store import write_json
from lepton_tasks.core.watch_protocols import Alert, Event
from lepton_tasks.core.watch_settings import Watch

ENDPOINT, CHECKS = "endpoint", "checks"
"""Names of two monitors that every model has: whether the server answers, and whether the other monitors ran."""


@dataclasses.dataclass(frozen=True)
class Lasting:
    """A finding that is not ok.

    Attributes:
        finding: As it was seen last.
        since: Unix time of the first check that saw it.
        risen: Unix time since which it is as severe as it is.
        told: The worst severity that was alerted; None if none was.
        told_at: Unix time of the last alert.
    """

    finding: Finding
    since: float
    risen: float
    told: Severity | None = None
    told_at: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Lasting:
        """What `dataclasses.asdict` gave."""
        return cls(**{**values, "finding": Finding(**values["finding"])})


@dataclasses.dataclass(frozen=True)
class Book:
    """The findings and pending alerts of a watched model.

    Attributes:
        time: Unix time of the latest check; 0 before the first.
        version: The champion at that check.
        version_since: Unix time since which it is seen as the champion.
        findings: What the latest check found.
        lasting: The findings that are not ok, by `key_of`.
        outbox: Alerts that a channel has not taken yet, by channel and by `key_of`; a newer one replaces an older one.
    """

    time: float = 0.0
    version: str | None = None
    version_since: float = 0.0
    findings: tuple[Finding, ...] = ()
    lasting: Mapping[str, Lasting] = dataclasses.field(default_factory=dict)
    outbox: Mapping[str, Mapping[str, Alert]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Book:
        """What `dataclasses.asdict` gave."""
        outbox = {
            name: {key: Alert.from_json(alert) for key, alert in waiting.items()}
            for name, waiting in values["outbox"].items()
        }
        return cls(
            values["time"],
            values["version"],
            values["version_since"],
            tuple(Finding(**finding) for finding in values["findings"]),
            {key: Lasting.from_json(one) for key, one in values["lasting"].items()},
            outbox,
        )

    def posted(self, alerts: Mapping[str, Alert], channels: Collection[str]) -> Book:
        """The book with these alerts for each of the channels; what waits for other channels is forgotten."""
        outbox = {name: {**self.outbox.get(name, {}), **alerts} for name in channels}
        return dataclasses.replace(self, outbox={name: waiting for name, waiting in outbox.items() if waiting})


def key_of(finding: Finding) -> str:
    """What makes two findings the same one at different times."""
    return f"{finding.monitor}/{finding.subject}"


def home_of(root: Path, use_case: str) -> Path:
    """The folder of everything about a watched model."""
    return root / MONITORING / use_case


def read_book(root: Path, use_case: str) -> Book:
    """The book of a use case; an empty one before the first check."""
    try:
        return Book.from_json(json.loads((home_of(root, use_case) / BOOK_FILE).read_text()))
    except FileNotFoundError:
        return Book()


def write_book(root: Path, use_case: str, book: Book) -> None:
    """Keep the book; call it in `locked` only."""
    write_json(home_of(root, use_case) / BOOK_FILE, dataclasses.asdict(book))


@contextlib.contextmanager
def locked(root: Path, use_case: str) -> Iterator[None]:
    """Hold the right to change the book of a use case; waits while another process holds it."""
    home = home_of(root, use_case)
    home.mkdir(parents=True, exist_ok=True)
    with (home / f".{BOOK_FILE}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclasses.dataclass(frozen=True)
class Change:
    """An event of a finding that is to be alerted; `was` is the severity that was alerted before."""

    event: Event
    one: Lasting
    was: Severity | None


def follow(
    lasting: Mapping[str, Lasting],
    findings: Sequence[Finding],
    *,
    now: float,
    watch: Watch,
    monitors: Collection[str],
) -> tuple[dict[str, Lasting], list[Change]]:
    """What lasts after a check, and what is to be alerted about it.

    A finding is over when its monitor says ok, or does not name it any more. A monitor that was not asked or that could
    measure nothing (an ok finding without a value) ends nothing, nor does one that names it among others.

    Args:
        lasting: What lasted until now.
        findings: What the check found.
        now: Unix time.
        watch: From which severity, and how often, alerts are sent.
        monitors: Names of the monitors that the use case has; findings of others are over.
    """
    seen = _worst_by_key(findings)
    asked = {finding.monitor for finding in findings}
    unsure = {finding.monitor for finding in findings if finding.severity == "ok" and finding.value is None}
    after: dict[str, Lasting] = {}
    changes: list[Change] = []
    for key, finding in seen.items():
        if finding.severity == "ok":
            continue
        after[key], event = _goes_on(lasting.get(key), finding, now, watch)
        if event is not None:
            old = lasting.get(key)
            changes.append(Change(event, after[key], old.told if old else None))
    for key, old in lasting.items():
        if key in after:
            continue
        monitor, said = old.finding.monitor, seen.get(key)
        silent = monitor in monitors and monitor not in asked
        undecided = said.value is None if said is not None else monitor in unsure or _named(old.finding, findings)
        if silent or undecided:
            after[key] = old
        elif old.told is not None:
            changes.append(Change("ended", old, old.told))
    return after, changes


def _named(finding: Finding, findings: Sequence[Finding]) -> bool:
    """Whether its monitor names its subject among others, in a finding about all of them."""
    return any(
        one.monitor == finding.monitor
        and one.severity != "ok"
        and not one.subject
        and finding.subject in re.split(r"[\s,;:]+", one.message)
        for one in findings
    )


def _goes_on(old: Lasting | None, finding: Finding, now: float, watch: Watch) -> tuple[Lasting, Event | None]:
    rank = SEVERITIES.index
    if old is None:
        old = Lasting(finding, now, now)
    risen = now if rank(finding.severity) > rank(old.finding.severity) else old.risen
    one = dataclasses.replace(old, finding=finding, risen=risen)
    if rank(finding.severity) < rank(watch.alert_from):
        return dataclasses.replace(one, told=None), "ended" if old.told else None
    event: Event
    if one.told is None:
        event = "began"
    elif rank(finding.severity) > rank(one.told):
        event = "rose"
    elif now - one.told_at >= watch.remind_hours * 3600:
        event = "continues"
    else:
        return one, None
    return dataclasses.replace(one, told=finding.severity, told_at=now), event


def _worst_by_key(findings: Sequence[Finding]) -> dict[str, Finding]:
    """One finding a key: the worst, the first of equals."""
    found: dict[str, Finding] = {}
    for finding in findings:
        other = found.get(key_of(finding))
        if other is None or SEVERITIES.index(finding.severity) > SEVERITIES.index(other.severity):
            found[key_of(finding)] = finding
    return found
