"""Implementation of `lepton monitor` and `lepton repair`."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import use_case_file
from lepton_tasks.core.errors import LeptonError, StageError
from lepton_tasks.core.finding import SEVERITIES, Finding, worst
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.monitoring.book import Book, read_book

_STYLES = {"ok": "green", "warning": "yellow", "critical": "bold red"}


def monitor(name: str) -> dict[str, Any]:
    """Check the deployed model of a use case, and send alerts; returns the findings as JSON values."""
    from lepton_tasks.monitoring.alert import deliver
    from lepton_tasks.stages.runner import run_stage
    from lepton_tasks.stages.watch import check

    use_case, ctx = _begin(name, "monitor")
    with _muted("lepton.monitor"), _muted("lepton.alert"):  # the table shows their messages
        book = check(use_case, ctx, lambda endpoint: run_stage("monitor", use_case, ctx, {"endpoint": endpoint}))
        if book is None:
            return {"name": name, "ok": True, "deployed": False, "findings": []}
        delivery = deliver(use_case, ctx)
    return {
        "name": name,
        "ok": worst(book.findings) != "critical",
        "deployed": True,
        "version": book.version,
        "findings": [finding.as_json() for finding in book.findings],
        "alerts_sent": delivery.sent,
        "alerts_failed": delivery.failed,
    }


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """Print the result of `monitor` as a table, the most severe findings first."""
    console = console or _console()
    if not found["deployed"]:
        console.print(f"{found['name']}: nothing is deployed", highlight=False)
        return
    table = Table(box=None, padding=(0, 1), title=f"{found['name']} version {found['version']}", title_justify="left")
    for column in ("", "monitor", "value", "limit", "unit"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("value", "limit") else "left")
    table.add_column("")
    findings = [Finding(**values) for values in found["findings"]]
    for finding in sorted(findings, key=lambda one: -SEVERITIES.index(one.severity)):
        severity = f"[{_STYLES[finding.severity]}]{finding.severity}[/]"
        value, limit = ("" if figure is None else f"{figure:.4g}" for figure in (finding.value, finding.limit))
        table.add_row(severity, finding.monitor, value, limit, finding.unit, escape(finding.message))
    console.print(table)
    for channel, count in found["alerts_sent"].items():
        console.print(f"alerts sent to {channel}: {count}", highlight=False)
    for channel, reason in found["alerts_failed"].items():
        console.print(f"alerts not sent to {channel}, kept for the next check: {reason}", highlight=False, style="red")


def repair(name: str, *, dry_run: bool, console: Console) -> dict[str, Any]:
    """Apply the remedies to the latest findings; returns their messages and plans as JSON values."""
    from lepton_tasks.monitoring import remediate
    from lepton_tasks.monitoring.alert import deliver
    from lepton_tasks.stages.watch import situation

    use_case, ctx = _begin(name, "repair")
    book = read_book(ctx.root, name)
    trainer = _LocalTrainer(use_case, ctx, console)
    try:
        repairs = remediate.repair(situation(use_case, ctx, trainer), dry_run=dry_run)
    finally:
        if not dry_run:
            deliver(use_case, ctx)
    messages = [one.text for one in repairs] or [f"{name}: no remedy applies"]
    if book.time:
        messages.insert(0, f"findings of {_ago(book.time)}; `lepton monitor {name}` makes a new check")
    return {
        "name": name,
        "ok": trainer.ok,
        "dry_run": dry_run,
        "told": messages,
        "repairs": [{"remedy": one.remedy, **dataclasses.asdict(one.plan), "outcome": one.outcome} for one in repairs],
    }


class _LocalTrainer:
    """Trainer that runs the pipeline in this process."""

    def __init__(self, use_case: UseCase, ctx: RunContext, console: Console) -> None:
        self.use_case, self.ctx, self.console = use_case, ctx, console
        self.ok = True

    def obstacle(self) -> str:
        """Reason against a run: one is in progress, here or in Airflow."""
        from lepton_tasks.stages.running import is_running

        name = self.use_case.name
        if is_running(self.ctx.root, name) or self._in_airflow(name):
            return f"a run of {name} is in progress."
        return ""

    def unchanged(self) -> bool:
        """Whether a run would produce the same model."""
        from lepton_tasks.stages.watch import unchanged

        return unchanged(self.use_case, self.ctx)

    def start(self, why: str) -> str:
        """Run the pipeline; a candidate refused by the gate is a result, other failures are errors."""
        from lepton_tasks.cli.run import run_use_case

        found = run_use_case(use_case_file(self.use_case.name), [], until=None, force=False, console=self.console)
        failed = next((stage for stage in found["stages"].values() if stage["state"] == "failed"), None)
        if failed is None:
            return f"run {found['run_id']} deployed version {found['model_version']}."
        if failed["error"]["type"] == "GateError":
            return f"run {found['run_id']} ended at the gate: {failed['error']['what']}"
        self.ok = False
        raise StageError(f"run {found['run_id']} failed: {failed['error']['what']}")

    def _in_airflow(self, name: str) -> bool:
        """Whether the local Airflow, if it is running, has an active run of the Dag."""
        from lepton_tasks.deployment import embedded
        from lepton_tasks.deployment.airflow_api import AirflowClient
        from lepton_tasks.deployment.embedded_services import AIRFLOW_USER, airflow_password

        about = embedded.status(self.ctx.root).get("airflow", {})
        if about.get("state") != "running":
            return False
        with (
            contextlib.suppress(LeptonError),
            AirflowClient(about["url"], AIRFLOW_USER, airflow_password(self.ctx.root)) as airflow,
        ):
            return airflow.is_active(name)
        return False


def check_line(root: Path, name: str) -> str:
    """Latest check of a model in one line; empty if there is none."""
    return _check_line(read_book(root, name))


def _check_line(book: Book) -> str:
    if not book.time:
        return ""
    bad = sorted(
        (one for one in book.findings if one.severity != "ok"), key=lambda one: -SEVERITIES.index(one.severity)
    )
    if not bad:
        return f"checked {_ago(book.time)}: ok"
    counts = ", ".join(
        f"{count} {severity}" for severity in reversed(SEVERITIES[1:]) if (count := _count(bad, severity))
    )
    return f"checked {_ago(book.time)}: {counts}; {bad[0].monitor}: {bad[0].message}"


def _count(findings: list[Finding], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now"


@contextlib.contextmanager
def _muted(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _console() -> Console:
    """A console that wraps lines at the terminal's width, and not without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=1000)


def _begin(name: str, stage: str) -> tuple[UseCase, RunContext]:
    run_id = f"{stage}-{name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"
    ctx = dataclasses.replace(RunContext.from_env(run_id), stage=stage)
    return load_use_case(use_case_file(name)), ctx
