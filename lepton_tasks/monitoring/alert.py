"""Write findings into the book of a model, and send the alerts that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lepton_tasks.core.catalogue import ALERT_CHANNELS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Environment
from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.store import digest_of
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.watch_protocols import Alert, Event
from lepton_tasks.monitoring.book import (
    CHECKS,
    ENDPOINT,
    Book,
    Lasting,
    follow,
    key_of,
    locked,
    read_book,
    write_book,
)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """What became of the alerts: how many each channel took, and why a channel failed."""

    sent: Mapping[str, int]
    failed: Mapping[str, str]


def record(
    use_case: UseCase, ctx: RunContext, findings: Sequence[Finding], *, version: str | None, deployed_at: float = 0.0
) -> Book:
    """Write a check's findings into the book, and post what is to be alerted.

    Args:
        use_case: Whose model was checked.
        ctx: The run that checked it.
        findings: What was found; without one of `ENDPOINT` or `CHECKS`, the server has answered and the monitors ran.
        version: The champion; None if nobody knows.
        deployed_at: Unix time of its deployment, if it is known.

    Returns:
        The book as it is now.
    """
    now = ctx.clock().timestamp()
    bad = {finding.monitor for finding in findings}
    well = [
        Finding(monitor=name, severity="ok", message="", value=1.0) for name in (ENDPOINT, CHECKS) if name not in bad
    ]
    monitors = {ENDPOINT, CHECKS, *(spec.name for spec in use_case.monitor)}
    with locked(ctx.root, use_case.name):
        book = read_book(ctx.root, use_case.name)
        if version is not None and version != book.version:
            # The first check of all may come long after the deployment; later ones see a change as it happens.
            since = min(now, deployed_at or now) if book.version is None else now
            book = dataclasses.replace(book, version=version, version_since=since)
        lasting, changes = follow(book.lasting, [*findings, *well], now=now, watch=use_case.watch, monitors=monitors)
        book = dataclasses.replace(book, time=now, findings=tuple(findings), lasting=lasting)
        alerts = {
            key_of(change.one.finding): _alert(use_case, ctx, book, change.event, change.one, change.was)
            for change in changes
        }
        book = book.posted(alerts, _channels(ctx.environment))
        write_book(ctx.root, use_case.name, book)
    return book


def announce(use_case: UseCase, ctx: RunContext, findings: Sequence[Finding], what: str) -> None:
    """Post what was done about findings."""
    now = ctx.clock().timestamp()
    done = Lasting(dataclasses.replace(findings[0], message=what), now, now)
    with locked(ctx.root, use_case.name):
        book = read_book(ctx.root, use_case.name)
        alert = _alert(use_case, ctx, book, "repair", done, None)
        posted = book.posted({f"repair/{ctx.run_id}/{now}": alert}, _channels(ctx.environment))
        write_book(ctx.root, use_case.name, posted)


def deliver(use_case: UseCase, ctx: RunContext) -> Delivery:
    """Send every channel the alerts that it has not taken yet. A channel that fails costs no other, nor its alerts."""
    sent: dict[str, int] = {}
    failed: dict[str, str] = {}
    with locked(ctx.root, use_case.name):
        book = read_book(ctx.root, use_case.name)
        for name, spec in _channels(ctx.environment).items():
            waiting = book.outbox.get(name)
            if not waiting:
                continue
            try:
                channel = ALERT_CHANNELS.build(spec.name, spec.params, where=f"environment: alerts: {spec.name}")
                channel.send([waiting[key] for key in sorted(waiting, key=lambda key: waiting[key].time)])
            except LeptonError as error:
                failed[name] = str(error)
            except Exception as error:  # noqa: BLE001 - whatever a channel raises; its text may hold a secret
                failed[name] = f"it failed with {type(error).__name__}."
            else:
                sent[name] = len(waiting)
                book = dataclasses.replace(book, outbox={n: w for n, w in book.outbox.items() if n != name})
                write_book(ctx.root, use_case.name, book)  # at once: what was sent is not to be sent again
    for name, count in sent.items():
        ctx.log.info("alerts sent to %s: %d", name, count)
    for name, reason in failed.items():
        ctx.log.error("alerts not sent to %s, kept for the next check: %s", name, reason)
    return Delivery(sent, failed)


def _channels(environment: Environment) -> dict[str, ComponentSpec]:
    """The channels by a name that stays when their order changes; a second one of a kind gets a suffix."""
    found: dict[str, ComponentSpec] = {}
    for spec in environment.alerts:
        twin = spec.name in found
        found[f"{spec.name}-{digest_of(spec.params)[:6]}" if twin else spec.name] = spec
    return found


def _alert(use_case: UseCase, ctx: RunContext, book: Book, event: Event, one: Lasting, was: str | None) -> Alert:
    return Alert(
        use_case=use_case.name,
        environment=ctx.environment.name,
        version=book.version,
        event=event,
        finding=one.finding,
        was=was,  # type: ignore[arg-type]  # a severity
        since=one.since,
        time=ctx.clock().timestamp(),
        remind=use_case.watch.remind_hours * 3600,
        url=f"{ctx.environment.airflow_url}/dags/{use_case.name}",
    )
