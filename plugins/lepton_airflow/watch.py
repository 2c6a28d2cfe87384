"""The Dag that watches a deployed model: `monitor >> alert >> repair`, thin tasks over `lepton_tasks.stages.watch`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunLink
from airflow.sdk import DAG, BaseOperator

from lepton_airflow.dag import cron_of
from lepton_airflow.errors import airflow_error, asking_airflow, skipped
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

_LONGEST_NOTE = 1000  # characters, of Airflow
_SUFFIX = ".watch"  # no use case has a dot in its name
_ABOUT = """Monitors the model deployed by the Dag [{name}](/dags/{name}), sends alerts, and repairs it.

| task | what it does |
|---|---|
| `monitor` | runs the monitors; skipped if nothing is deployed |
| `alert` | sends findings that began, worsened or ended to the channels of the environment file |
| `repair` | applies `watch.remedies`; a retraining is a run of the Dag `{name}` |
"""


def build_watch(path: Path, use_case: UseCase) -> DAG | None:
    """The Dag that watches what a use case deploys; None if it deploys nothing or is not to be watched.

    Raises:
        ConfigError: its schedule is none.


    It is not paused when it is new: a deployed model is watched without anything more to do, and a run for a use case
    that was never deployed takes one task of a second.
    """
    schedule = use_case.watch.schedule
    if not use_case.watched or schedule is None:
        return None
    title = use_case.title or use_case.name
    with DAG(
        dag_id=f"{use_case.name}{_SUFFIX}",
        dag_display_name=f"{title}: watch",
        description="Checks, alerts and repairs between runs",
        doc_md=_ABOUT.format(name=use_case.name),
        schedule=_minute_of(use_case.name) if schedule == "@hourly" else cron_of(schedule, path, "watch.schedule"),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        auto_register=False,
        tags=["lepton", "watch"],
        default_args={"owner": "lepton", "retry_delay": dt.timedelta(seconds=30)},
    ) as dag:
        file = str(path)
        monitor = MonitorOperator(task_id="monitor", use_case=file)
        # After a failure, too: that the monitors failed is told, and a channel that failed stops no repair.
        alert = AlertOperator(task_id="alert", use_case=file, trigger_rule="none_skipped")
        repair = RepairOperator(task_id="repair", use_case=file, trigger_rule="none_skipped")
        monitor >> alert >> repair
    return dag


def _minute_of(name: str) -> str:
    """Once an hour, use cases at different minutes: all at once they would keep a small machine busy."""
    return f"{zlib.crc32(name.encode()) % 60} * * * *"


class _Step(BaseOperator):
    """A task about one use case.

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


class MonitorOperator(_Step):
    """Runs the monitors on the deployed model."""

    operator_extra_links = (EndpointLink(),)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[ArtifactRef] = []
        self._process: StageProcess | None = None

    def execute(self, context: Context) -> dict[str, int]:
        """Returns the number of findings by severity; they do not fail the task."""
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
        self.seen.append(endpoint)
        self._process = StageProcess("monitor", Path(self.use_case), {}, run_id=run_id)
        self._process.run({"endpoint": endpoint}, on_line=lambda line: self.log.info("%s", line))


class AlertOperator(_Step):
    """Sends pending alerts."""

    def execute(self, context: Context) -> dict[str, int]:
        """Returns how many each channel took; fails if one did not, after all were tried."""
        from lepton_tasks.monitoring.alert import deliver

        try:
            delivery = deliver(*self._begin(context))
        except LeptonError as error:
            raise airflow_error(error) from error
        _all_sent(delivery)
        if not delivery.sent:
            self.log.info("There are no new alerts.")
        return dict(delivery.sent)


def _all_sent(delivery: Delivery) -> None:
    if delivery.failed:
        told = " ".join(f"{name}: {reason}" for name, reason in delivery.failed.items())
        raise airflow_error(UnavailableError(f"{told} The alerts are kept for the next check."))


class RepairOperator(_Step):
    """Applies the remedies; a retraining is a run of the use case's Dag."""

    operator_extra_links = (TriggerDagRunLink(),)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.trigger_dag_id = Path(self.use_case).stem  # of the link

    def execute(self, context: Context) -> list[str]:
        """Returns what was said and done; what was done is told at once, even if it failed."""
        from lepton_tasks.monitoring.alert import deliver
        from lepton_tasks.monitoring.remediate import repair
        from lepton_tasks.stages.watch import situation

        try:
            use_case, ctx = self._begin(context)
            try:
                repairs = repair(situation(use_case, ctx, _Dag(use_case, ctx, context["ti"])))
            finally:
                delivery = deliver(use_case, ctx)
        except LeptonError as error:
            raise airflow_error(error) from error
        for one in repairs:
            self.log.info("%s", one.text)
        if not repairs:
            self.log.info("No remedy applies.")
        _all_sent(delivery)
        return [one.text for one in repairs]


class _Dag:
    """Trains by a run of the use case's Dag.

    It asks for the run itself. `TriggerDagRunOperator` leaves that to what runs the task, after its end, where a
    retraining that never began had been noted and told as started.
    """

    def __init__(self, use_case: UseCase, ctx: RunContext, ti: Any) -> None:
        self.use_case, self.ctx, self.ti = use_case, ctx, ti

    def obstacle(self) -> str:
        """A run that goes on, in Airflow or outside of it, or a paused Dag."""
        from lepton_tasks.stages.running import is_running

        name = self.use_case.name
        active = self.ti.get_dr_count(dag_id=name, states=["queued", "running"])
        if active or is_running(self.ctx.root, name):
            return f"a run of {name} is in progress."
        return f"the Dag {name} is paused in Airflow." if self.ti.get_dag(name).is_paused else ""

    def unchanged(self) -> bool:
        """Whether the run would give the same model."""
        from lepton_tasks.stages.watch import unchanged

        return unchanged(self.use_case, self.ctx)

    def start(self, why: str) -> str:
        """Start the run; if an earlier attempt of this task did, that is it."""
        from airflow.sdk.execution_time import comms, task_runner

        name, run_id = self.use_case.name, f"repair__{self.ctx.run_id}"
        wanted = comms.TriggerDagRun(
            dag_id=name,
            run_id=run_id,
            logical_date=self.ctx.clock(),
            conf={"reason": why, "asked_by": self.ctx.run_id},
            note=why[:_LONGEST_NOTE],
        )
        with asking_airflow(f"no run of the Dag {name} began", fix="It is tried again at the next check."):
            task_runner.SUPERVISOR_COMMS.send(wanted)
        self.ti.xcom_push(key="trigger_run_id", value=run_id)  # of the link
        return f"run {run_id} of the Dag {name} is started."
