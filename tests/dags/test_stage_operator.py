import collections
import re
from pathlib import Path

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from lepton_airflow import stage_operator
from lepton_airflow.dag import OVERRIDES, build_dag
from lepton_airflow.links import DataDocsLink, EndpointLink, MlflowRunLink
from lepton_airflow.stage_operator import StageOperator

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EndpointRef, QualityReportRef
from lepton_tasks.core.errors import DataError, DataQualityError, UnavailableError
from lepton_tasks.core.use_case_file import load_use_case

DIGITS = Path(__file__).parents[2] / "configs" / "use_cases" / "mnist_digits.yaml"
FEATURES = DatasetRef(uri="store://transform/1", digest="1" * 64, stage="transform", facts={"train_rows": 3500})
CHECKPOINT = CheckpointRef(
    uri="store://train/1",
    digest="2" * 64,
    stage="train",
    facts={"mlflow_run_id": "r1", "mlflow_experiment_id": "7"},
)


class Events(collections.defaultdict):
    def __missing__(self, key):
        self[key] = type("Event", (), {"extra": {}})()
        return self[key]


class TaskInstance:
    def __init__(self, left):
        self.left, self.pushed = left, {}

    def xcom_pull(self, *, task_ids):
        return self.left[task_ids].model_dump()

    def xcom_push(self, *, key, value):
        self.pushed[key] = value


def context(left=None, **params):
    own = load_use_case(DIGITS).train
    form = {"epochs": own.epochs, "learning_rate": own.learning_rate, "devices": own.devices}
    values = {**form, "deploy": True, "force": False, **params}
    return {
        "params": values,
        "run_id": "manual__2026-01-02T03:04:05+00:00",
        "ti": TaskInstance(collections.defaultdict(lambda: FEATURES) | (left or {})),
        "outlet_events": Events(),
    }


def operator(stage, **arguments):
    overrides = {p: key for p, key in OVERRIDES.items() if p != "data_path"}
    return StageOperator(task_id=stage, stage=stage, use_case=str(DIGITS), overrides=overrides, **arguments)


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Processes that were asked for, in place of real ones; each returns the checkpoint."""
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    asked = []

    class Process:
        def __init__(self, stage, use_case, overrides, *, run_id, force):
            asked.append({"stage": stage, "overrides": overrides, "run_id": run_id, "force": force})

        def run(self, refs, *, on_line):
            asked[-1]["refs"] = refs
            return CHECKPOINT

    monkeypatch.setattr(stage_operator, "StageProcess", Process)
    return asked


def test_the_form_becomes_overrides_of_what_was_changed(ran):
    given = context(epochs=3, force=True)
    assert operator("train").execute(given) == CHECKPOINT.model_dump()
    (asked,) = ran
    assert asked["overrides"] == {"train.epochs": 3}
    assert asked["run_id"] == "manual__2026-01-02T03-04-05-00-00"
    assert asked["force"] is True
    assert asked["refs"]["features"] == FEATURES
    assert given["ti"].pushed == {}


def test_an_unchanged_stage_is_reused_without_a_process(ran, monkeypatch):
    monkeypatch.setattr(stage_operator, "plan_stage", lambda *_: CHECKPOINT)
    given = context()
    assert operator("train").execute(given) == CHECKPOINT.model_dump()
    assert ran == []
    assert given["ti"].pushed == {"reused": True}


def test_assets_carry_digest_and_facts(ran):
    asset = Asset("lepton://models/x")
    given = context()
    operator("train", outlets=[asset]).execute(given)
    assert given["outlet_events"][asset].extra == {"digest": CHECKPOINT.digest, **CHECKPOINT.facts}


def test_a_run_that_is_not_to_be_deployed_skips_the_stages_that_deploy(ran):
    with pytest.raises(AirflowSkipException):
        operator("deploy").execute(context(deploy=False))
    operator("train").execute(context(deploy=False))
    assert [asked["stage"] for asked in ran] == ["train"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DataError("no rows.", where="raw"), AirflowFailException), (UnavailableError("no answer."), AirflowException)],
)
def test_only_what_may_pass_by_itself_is_retried(ran, monkeypatch, error, kind):
    def fail(*_):
        raise error

    monkeypatch.setattr(stage_operator, "plan_stage", fail)
    given = context()
    with pytest.raises(AirflowException) as caught:
        operator("train").execute(given)
    assert type(caught.value) is kind
    assert str(caught.value) == str(error)
    assert given["ti"].pushed == {"error": str(error)}


def test_links_lead_to_the_run_and_the_endpoint(monkeypatch):
    monkeypatch.setenv("LEPTON_TRACKING_URL", "http://127.0.0.1:5001")
    monkeypatch.setenv("LEPTON_SERVING_URL", "http://127.0.0.1:8101")
    task = operator("deploy")
    assert MlflowRunLink().get_link(task, ti_key=None) == EndpointLink().get_link(task, ti_key=None) == ""
    task.refs = [CHECKPOINT, EndpointRef(uri="store://deploy/1", digest="3" * 64, stage="deploy", facts={"url": "x"})]
    assert MlflowRunLink().get_link(task, ti_key=None) == "http://127.0.0.1:5001/#/experiments/7/runs/r1"
    assert EndpointLink().get_link(task, ti_key=None) == "http://127.0.0.1:8101/docs"
    docs = DataDocsLink().get_link(task, ti_key=None)
    assert docs == "http://127.0.0.1:5001/#/experiments/7/runs/r1/artifacts/quality/features/index.html"


def test_a_check_links_to_its_page_whether_it_passed_or_not(ran, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://127.0.0.1:8081/")
    task = build_dag(DIGITS).get_task("data.validate_raw")
    (link,) = task.operator_extra_links
    given = context()
    assert link.get_link(task, ti_key=None) == ""
    passed = QualityReportRef(uri="store://validate_raw/abc", digest="4" * 64, stage="validate_raw")
    monkeypatch.setattr(stage_operator, "plan_stage", lambda *_: passed)
    task.execute(given)
    page = "http://127.0.0.1:8081/lepton/data-docs/mnist_digits/validate_raw"
    assert link.get_link(task, ti_key=None) == f"{page}/abc/held"

    def fail(*_, **__):
        raise DataQualityError("1 of 2 expectations failed.")

    monkeypatch.setattr(stage_operator, "plan_stage", lambda *_: None)
    monkeypatch.setattr(stage_operator.StageProcess, "run", fail)
    with pytest.raises(AirflowFailException):
        task.execute(given)
    assert re.fullmatch(rf"{page}/[0-9a-f]{{32}}/failed", link.get_link(task, ti_key=None))


def test_the_form_is_the_dags_and_no_copy_of_each_task():
    dag = build_dag(DIGITS)
    assert {*dag.params} > {"epochs", "force"}
    assert [{*task.params} for task in dag.tasks] == [set()] * len(dag.tasks)


def test_the_form_covers_every_override_the_use_case_has():
    dag = build_dag(DIGITS)
    assert dag.get_task("training.train").overrides == {p: k for p, k in OVERRIDES.items() if p != "data_path"}
