from pathlib import Path

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRuntimeError,
    AirflowSkipException,
    ErrorType,
)
from airflow.sdk.execution_time import comms, task_runner
from alerts import drift
from lepton_airflow import watch

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.monitoring.alert import record
from lepton_tasks.stages import watch as steps

FILE = Path(__file__).parents[2] / "configs" / "use_cases" / "wine.yaml"
USE_CASE = load_use_case(FILE)
ENDPOINT = EndpointRef(uri="store://deploy/1", digest="1" * 64, stage="deploy", facts={"version": "3", "url": "x"})


class TaskInstance:
    def __init__(self, active=0, paused=False):
        self.active, self.paused, self.pushed = active, paused, {}

    def get_dr_count(self, *, dag_id, states):
        assert (dag_id, states) == ("wine", ["queued", "running"])
        return self.active

    def get_dag(self, dag_id):
        return type("Dag", (), {"is_paused": self.paused})

    def xcom_push(self, *, key, value):
        self.pushed[key] = value


def context(**about):
    return {"run_id": "scheduled__2026-01-02T03:32:00+00:00", "ti": TaskInstance(**about)}


def task(name):
    return watch.build_watch(FILE, USE_CASE).get_task(name)


@pytest.fixture
def ctx(tmp_path, monkeypatch, receiver):
    environment = tmp_path / "environment.yaml"
    environment.write_text(f"alerts: [{{name: webhook, params: {{url: {receiver.url}}}}}]")
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LEPTON_ENVIRONMENT", str(environment))
    monkeypatch.setattr(steps, "unchanged", lambda *_: False)
    served = {"version": "3", "previous": "2", "challenger": None}
    target = type("Target", (), {"health": lambda *_: served})()
    monkeypatch.setattr(steps, "target_of", lambda *_: target)
    return RunContext.from_env("test")


def test_the_monitors_run_in_a_process_of_their_own(ctx, monkeypatch):
    asked = []

    class Process:
        def __init__(self, stage, use_case, overrides, *, run_id):
            asked.append((stage, use_case, run_id))

        def run(self, refs, *, on_line):
            asked.append(refs)
            record(USE_CASE, ctx, [drift("critical"), drift("ok")], version="3")

    monkeypatch.setattr(watch, "StageProcess", Process)
    monkeypatch.setattr(steps, "deployed", lambda *_: ENDPOINT)
    made = task("monitor")
    assert made.execute(context()) == {"ok": 1, "warning": 0, "critical": 1}
    assert asked == [("monitor", FILE, "scheduled__2026-01-02T03-32-00-00-00"), {"endpoint": ENDPOINT}]
    assert made.operator_extra_links[0].get_link(made, ti_key=None).endswith("/docs")


def test_what_was_never_deployed_is_skipped(ctx, monkeypatch):
    monkeypatch.setattr(steps, "deployed", lambda *_: None)
    with pytest.raises(AirflowSkipException, match="Nothing is deployed"):
        task("monitor").execute(context())


def test_monitors_that_fail_fail_the_task_and_are_told(ctx, monkeypatch, receiver):
    def fail(*_, **__):
        raise DataError("no profile.")

    monkeypatch.setattr(steps, "deployed", lambda *_: ENDPOINT)
    monkeypatch.setattr(watch.StageProcess, "run", fail)
    with pytest.raises(AirflowFailException, match="no profile"):
        task("monitor").execute(context())
    assert task("alert").execute(context()) == {"webhook": 1}
    assert receiver.got[0][1]["text"].endswith("checks: the monitors failed: no profile.")


def test_alerts_are_sent_and_a_channel_that_fails_fails_the_task(ctx, receiver):
    receiver.status = 500
    record(USE_CASE, ctx, [drift("critical")], version="3")
    with pytest.raises(AirflowException, match=r"webhook: 127\.0\.0\.1 answers 500\. The alerts are kept"):
        task("alert").execute(context())
    receiver.status = 200
    assert task("alert").execute(context()) == {"webhook": 1}


class Supervisor:
    """Airflow's side of a task: starts runs, or does not."""

    def __init__(self):
        self.away, self.asked = False, []

    def send(self, message):
        self.asked.append(message)
        if self.away:
            raise AirflowRuntimeError(comms.ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status": 500}))
        return comms.OKResponse(ok=True)


@pytest.fixture
def supervisor(monkeypatch):
    made = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


RUN = "repair__scheduled__2026-01-02T03-32-00-00-00"


def test_a_retraining_is_a_run_of_the_use_cases_dag(ctx, receiver, supervisor):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    about, why = context(), drift("critical").message
    assert f"run {RUN} of the Dag wine is started." in task("repair").execute(about)[-1]
    (asked,) = supervisor.asked
    assert (asked.dag_id, asked.run_id, asked.note) == ("wine", RUN, why)
    assert asked.conf == {"reason": why, "asked_by": "scheduled__2026-01-02T03-32-00-00-00"}
    assert about["ti"].pushed == {"trigger_run_id": RUN}
    assert receiver.got[-1][1]["alerts"][-1]["event"] == "repair"
    (again,) = task("repair").execute(context())
    assert "the last retraining began 0.0 h ago" in again


def test_a_run_that_airflow_does_not_start_is_told_and_asked_for_again_at_the_next_check(ctx, receiver, supervisor):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    supervisor.away = True
    fault = "no run of the Dag wine began: API_SERVER_ERROR"
    with pytest.raises(AirflowException, match=fault):
        task("repair").execute(context())
    assert fault in receiver.got[-1][1]["text"]
    supervisor.away = False
    assert f"run {RUN} of the Dag wine is started." in task("repair").execute(context())[-1]


@pytest.mark.parametrize(
    ("about", "told"),
    [({"active": 1}, "a run of wine is in progress."), ({"paused": True}, "the Dag wine is paused in Airflow.")],
)
def test_no_run_is_started_beside_another_one_or_in_a_paused_dag(about, told, ctx):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    (said,) = task("repair").execute(context(**about))
    assert told in said


def test_without_findings_nothing_is_done(ctx):
    assert task("repair").execute(context()) == []
