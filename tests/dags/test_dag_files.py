import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_tasks.core.use_case_file import load_use_case

PROJECT = Path(__file__).parents[2]

# What Airflow's Dag processor does with a folder, in a process as clean as its own.
PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
before = set(sys.modules)
began = time.monotonic()
bag = DagBag(sys.argv[1])
seconds = time.monotonic() - began
heavy = ("torch", "dask", "distributed", "mlflow", "great_expectations", "pandas", "pyarrow", "sklearn", "matplotlib")
dags = {}
for dag in bag.dags.values():
    scheduled = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    first = scheduled.next_dagrun_info(last_automated_run_info=None)
    dags[dag.dag_id] = {
        "tasks": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
        "retries": {t.task_id: t.retries for t in dag.tasks},
        "outlets": {t.task_id: [asset.uri for asset in t.outlets] for t in dag.tasks if t.outlets},
        "params": {name: dag.params.get_param(name).serialize() for name in dag.params},
        "schedule": str(dag.schedule), "catchup": dag.catchup, "runs": dag.max_active_runs, "tags": sorted(dag.tags),
        "title": dag.dag_display_name, "doc": dag.doc_md, "file": dag.fileloc, "paused": dag.is_paused_upon_creation,
        "cron": scheduled.timetable.summary,
        "waits": first and first.run_after.timestamp() - time.time(),
    }
print(json.dumps({"dags": dags, "errors": bag.import_errors, "seconds": seconds,
                  "heavy": [name for name in heavy if name in sys.modules]}))
"""


def parse(project):
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(project / "dags")], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bag():
    return parse(PROJECT)


def digits(name, **replaced):
    """The digits use case under another name, with whole lines replaced or added."""
    lines = (PROJECT / "configs" / "use_cases" / "mnist_digits.yaml").read_text().splitlines()
    replaced = {"name": f"name: {name}", **replaced}
    kept = [replaced.pop(line.partition(":")[0], line) for line in lines]
    return "\n".join([*kept, *replaced.values()])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """What Airflow makes of a project with good and broken use cases."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "dags", project / "dags")
    pictures = (PROJECT / "configs" / "use_cases" / "cats_dogs.yaml").read_text()
    files = {
        "mnist_digits": digits("mnist_digits"),
        "nightly": digits("nightly", schedule="schedule: '0 3 * * *'"),
        "after": digits("after", schedule="schedule: {assets: ['lepton://datasets/mnist_digits']}"),
        "no_data": pictures.replace("cats_dogs", "no_data").replace("path: cats-dogs", "path: /nowhere"),
        "cats": digits("cats", model="model: {name: cnm}"),
        "dogs": digits("dogs", seed="seed: -1", epoch="epoch: 3"),
        "hourly": digits("hourly", schedule="schedule: 'x * * * *'"),
        "chained": digits("chained", schedule="schedule: {assets: ['airflow://x']}"),
        "looked": digits("looked", watch="watch: {schedule: 'x * * * *'}"),
        "unwatched": digits("unwatched", watch="watch: {schedule: null}"),
        "kept": digits("kept", deploy="deploy: {enabled: false}"),
    }
    (project / "configs" / "use_cases").mkdir(parents=True)
    for name, text in files.items():
        (project / "configs" / "use_cases" / f"{name}.yaml").write_text(text)
    return parse(project)


def test_every_use_case_is_a_dag(bag):
    assert bag["errors"] == {}
    names = {path.stem for path in (PROJECT / "configs" / "use_cases").glob("*.yaml")}
    assert set(bag["dags"]) == names | {f"{name}.watch" for name in names}


def test_the_stages_are_tasks_in_groups_and_in_order(bag):
    from lepton_tasks.stages.pipeline import STAGES

    dag = bag["dags"]["mnist_digits"]
    names = [f"{stage.group}.{stage.name}" for stage in STAGES]
    assert list(dag["tasks"]) == names
    assert [dag["tasks"][name] for name in names] == [[name] for name in names[1:]] + [[]]
    assert {name.split(".")[0] for name in names} == {"data", "training", "release"}
    assert [dag["retries"][name] for name in names] == [stage.retries for stage in STAGES]
    assert (dag["catchup"], dag["runs"], dag["schedule"]) == (False, 1, "None")


def test_the_form_is_typed_and_bounded_with_the_yamls_values(bag):
    params = bag["dags"]["mnist_digits"]["params"]
    own = load_use_case(PROJECT / "configs" / "use_cases" / "mnist_digits.yaml").train
    assert {name: param["value"] for name, param in params.items()} == {
        "epochs": own.epochs,
        "learning_rate": own.learning_rate,
        "devices": own.devices,
        "deploy": True,
        "force": False,
    }
    epochs, rate = params["epochs"]["schema"], params["learning_rate"]["schema"]
    assert (epochs["type"], epochs["minimum"], epochs["maximum"]) == ("integer", 1, 10_000)
    assert (rate["type"], rate["exclusiveMinimum"]) == ("number", 0)
    assert all(param["schema"]["title"] and param["description"] for param in params.values())
    path = bag["dags"]["cats_dogs"]["params"]["data_path"]
    assert (path["value"], path["schema"]["type"]) == ("cats-dogs", "string")


def test_what_is_deployed_is_watched_once_an_hour_at_different_minutes(bag):
    dag = bag["dags"]["mnist_digits.watch"]
    assert dag["tasks"] == {"monitor": ["alert"], "alert": ["repair"], "repair": []}
    assert (dag["catchup"], dag["runs"], dag["paused"]) == (False, 1, False)
    assert dag["tags"] == ["lepton", "watch"]
    assert "(/dags/mnist_digits)" in dag["doc"]
    schedules = {about["schedule"] for name, about in bag["dags"].items() if name.endswith(".watch")}
    assert all(schedule.endswith(" * * * *") for schedule in schedules)
    assert len(schedules) > 12


def test_other_dags_can_follow_the_assets(bag):
    assert bag["dags"]["mnist_digits"]["outlets"] == {
        "data.transform": ["lepton://datasets/mnist_digits"],
        "release.register": ["lepton://models/mnist_digits"],
        "release.deploy": ["lepton://endpoints/mnist_digits"],
    }


def test_people_can_read_what_a_dag_is_for(bag):
    dag = bag["dags"]["mnist_digits"]
    assert dag["title"] == "Handwritten digits"
    assert "Not for addresses" in dag["doc"]
    assert dag["tags"] == ["cnn", "image_classification", "lepton"]


def test_parsing_imports_nothing_heavy(bag):
    assert bag["heavy"] == []
    assert bag["seconds"] < 10


def test_a_broken_file_costs_no_other_its_dag(mixed):
    watched = {"mnist_digits", "nightly", "after", "no_data"}
    assert set(mixed["dags"]) == watched | {f"{name}.watch" for name in watched} | {"unwatched", "kept"}
    assert all(dag["file"].endswith("use_cases.py") for dag in mixed["dags"].values())


@pytest.mark.parametrize(
    "told",
    [
        "cats.yaml: model.name: no model named 'cnm'. Did you mean 'cnn'?",
        "dogs.yaml: ",
        "seed: -1 is invalid",
        "epoch: unknown key",
        "hourly.yaml: schedule.cron: 'x * * * *' is not a cron expression",
        "chained.yaml: schedule.assets: ",
        "looked.yaml: watch.schedule: 'x * * * *' is not a cron expression",
    ],
)
def test_an_import_error_tells_file_key_and_value(mixed, told):
    ((file, message),) = mixed["errors"].items()
    assert file.endswith("use_case_errors.py")  # no Dag is in it: Airflow refuses to trigger Dags beside an error
    assert told in message
    assert "Traceback" not in message


def test_schedules_come_from_the_yaml(mixed):
    assert mixed["dags"]["nightly"]["cron"] == "0 3 * * *"
    assert mixed["dags"]["nightly"]["waits"] > 0  # unpaused for the first time, it starts no missed run
    assert "lepton://datasets/mnist_digits" in mixed["dags"]["after"]["schedule"]
