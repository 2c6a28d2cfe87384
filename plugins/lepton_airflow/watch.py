"""Dag that monitors a deployed model: `monitor >> alert >> repair`, thin tasks over `lepton_tasks.stages.watch`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunLink
from airflow.sdk import DAG, BaseOperator

from lepton_airflow.dag import checked_cron
from lepton_airflow.errors import airflow_api_errors, airflow_error, skipped
from lepton_airflow.links import EndpointLink
from lepton_airflow.process import StageProcess
from lepton_tasks.core.artifacts import ArtifactRef, EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.use_case_file import load_use_case

if TYPE_CHECKING:
    from airflow.sdk import Context

    from lepton_tasks.monitoring.alert import Delivery

_MAX_NOTE = 1000  # characters, Airflow's limit
_SUFFIX = ".watch"  # no use case has a dot in its name
_DOC = """Monitors the model deployed by the Dag [{name}](/dags/{name}), sends alerts, and repairs it.

| task | what it does |
|---|---|
| `monitor` | runs the monitors; skipped if nothing is deployed |
| `alert` | sends findings that began, worsened or ended to the channels of the environment file |
| `repair` | applies `watch.remedies`; a retraining is a run of the Dag `{name}` |
"""


def build_watch(path: Path, use_case: UseCase) -> DAG | None:
    """Build the monitoring Dag of a use case; None if it deploys nothing or has no monitoring schedule.

    New Dags are not paused, so deployed models are monitored without further action; a run for a use case that was
    never deployed takes one task of a second.

    Raises:
        ConfigError: the schedule is invalid.
    """
    schedule = use_case.watch.schedule
    if not use_case.watched or schedule is None:
        return None
    title = use_case.title or use_case.name
    with DAG(
        dag_id=f"{use_case.name}{_SUFFIX}",
        dag_display_name=f"{title}: watch",
        description="Checks, alerts and repairs between runs",
        doc_md=_DOC.format(name=use_case.name),
        schedule=_hourly(use_case.name) if schedule == "@hourly" else checked_cron(schedule, path, "watch.schedule"),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        auto_register=False,
        tags=["lepton", "watch"],
        default_args={"owner": "lepton", "retry_delay": dt.timedelta(seconds=30)},
    ) as dag:
        file = str(path)
        monitor = MonitorOperator(task_id="monitor", use_case=file)
        # Also after a failure: failed monitors are reported, and a failed channel prevents no repair.
        alert = AlertOperator(task_id="alert", use_case=file, trigger_rule="none_skipped")
        repair = RepairOperator(task_id="repair", use_case=file, trigger_rule="none_skipped")
        monitor >> alert >> repair
    return dag


def _hourly(name: str) -> str:
    """Hourly cron expression with a minute per use case, so that the Dags do not all run at once."""
    return f"{zlib.crc32(name.encode()) % 60} * * * *"


class _UseCaseOperator(BaseOperator):
    """Base class of the tasks.

    Args:
        use_case: Path of the YAML.
    """

    ui_color = "#e6f4ea"

    def __init__(self, *, use_case: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.use_case = use_case

    def _begin(self, context: Context) -> tuple[UseCase, RunContext]:
        run_id = re.sub(r"[^A-Za-z0-9_.-]", "-", str(context["run_id"]))
        ctx = dataclasses.replace(RunContext.from_env(run_id), stage=self.task_id)
        return load_use_case(Path(self.use_case)), ctx


class MonitorOperator(_UseCaseOperator):
    """Runs the monitors on the deployed model."""

    operator_extra_links = (EndpointLink(),)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.refs: list[ArtifactRef] = []
        self._process: StageProcess | None = None

    def execute(self, context: Context) -> dict[str, int]:
        """Run the monitors; returns the number of findings by severity, which do not fail the task."""
        from lepton_tasks.core.finding import SEVERITIES
        from lepton_tasks.stages.watch import check

        try:
            use_case, ctx = self._begin(context)
            book = check(use_case, ctx, lambda endpoint: self._run(endpoint, ctx.run_id))
        except LeptonError as error:
            raise airflow_error(error) from error
        if book is None:
            self.log.info("Nothing is deployed.")
            raise skipped("Nothing is deployed.")
        return {severity: sum(f.severity == severity for f in book.findings) for severity in SEVERITIES}

    def on_kill(self) -> None:
        """End the process of the monitors."""
        if self._process is not None:
            self._process.end()

    def _run(self, endpoint: EndpointRef, run_id: str) -> None:
        self.refs.append(endpoint)
        self._process = StageProcess("monitor", Path(self.use_case), {}, run_id=run_id)
        self._process.run({"endpoint": endpoint}, on_line=lambda line: self.log.info("%s", line))


class AlertOperator(_UseCaseOperator):
    """Sends pending alerts."""

    def execute(self, context: Context) -> dict[str, int]:
        """Send the alerts; returns their number by channel. Fails if a channel failed, after trying all."""
        from lepton_tasks.monitoring.alert import deliver

        try:
            delivery = deliver(*self._begin(context))
        except LeptonError as error:
            raise airflow_error(error) from error
        _raise_failed(delivery)
        if not delivery.sent:
            self.log.info("There are no new alerts.")
        return dict(delivery.sent)


def _raise_failed(delivery: Delivery) -> None:
    if delivery.failed:
        reasons = " ".join(f"{name}: {reason}" for name, reason in delivery.failed.items())
        raise airflow_error(UnavailableError(f"{reasons} The alerts are kept for the next check."))


class RepairOperator(_UseCaseOperator):
    """Applies the remedies; a retraining is a run of the use case's Dag."""

    operator_extra_links = (TriggerDagRunLink(),)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.trigger_dag_id = Path(self.use_case).stem  # of the link

    def execute(self, context: Context) -> list[str]:
        """Apply the remedies; returns their messages. Alerts about them are sent at once, even after a failure."""
        from lepton_tasks.monitoring.alert import deliver
        from lepton_tasks.monitoring.remediate import repair
        from lepton_tasks.stages.watch import situation

        try:
            use_case, ctx = self._begin(context)
            try:
                repairs = repair(situation(use_case, ctx, _DagTrainer(use_case, ctx, context["ti"])))
            finally:
                delivery = deliver(use_case, ctx)
        except LeptonError as error:
            raise airflow_error(error) from error
        for one in repairs:
            self.log.info("%s", one.text)
        if not repairs:
            self.log.info("No remedy applies.")
        _raise_failed(delivery)
        return [one.text for one in repairs]


class _DagTrainer:
    """Trainer that triggers a run of the use case's Dag.

    It triggers the run directly. `TriggerDagRunOperator` leaves that to the task runner after the task's end, when a
    retraining would already be reported as started, even if it never began.
    """

    def __init__(self, use_case: UseCase, ctx: RunContext, ti: Any) -> None:
        self.use_case, self.ctx, self.ti = use_case, ctx, ti

    def obstacle(self) -> str:
        """Reason against a run: one is in progress, in Airflow or outside of it, or the Dag is paused."""
        from lepton_tasks.stages.running import is_running

        name = self.use_case.name
        active = self.ti.get_dr_count(dag_id=name, states=["queued", "running"])
        if active or is_running(self.ctx.root, name):
            return f"a run of {name} is in progress."
        return f"the Dag {name} is paused in Airflow." if self.ti.get_dag(name).is_paused else ""

    def unchanged(self) -> bool:
        """Whether a run would produce the same model."""
        from lepton_tasks.stages.watch import unchanged

        return unchanged(self.use_case, self.ctx)

    def start(self, why: str) -> str:
        """Trigger the run; idempotent over the attempts of this task."""
        from airflow.sdk.execution_time import comms, task_runner

        name, run_id = self.use_case.name, f"repair__{self.ctx.run_id}"
        request = comms.TriggerDagRun(
            dag_id=name,
            run_id=run_id,
            logical_date=self.ctx.clock(),
            conf={"reason": why, "asked_by": self.ctx.run_id},
            note=why[:_MAX_NOTE],
        )
        with airflow_api_errors(f"no run of the Dag {name} began", fix="It is tried again at the next check."):
            task_runner.SUPERVISOR_COMMS.send(request)
        self.ti.xcom_push(key="trigger_run_id", value=run_id)  # of the link
        return f"run {run_id} of the Dag {name} is started."
