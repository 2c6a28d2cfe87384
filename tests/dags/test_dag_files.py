import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    DagSerialization.to_dict(dag)
    dags[dag.dag_id] = {
        "tasks": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
        "retries": {t.task_id: t.retries for t in dag.tasks},
        "outlets": {t.task_id: [asset.uri for asset in t.outlets] for t in dag.tasks if t.outlets},
        "params":
                  {name: {"value": dag.params.get_param(name).value, **dag.params.get_param(name).schema}
                   for name in dag.params},
        "schedule": str(dag.schedule), "catchup": dag.catchup, "runs": dag.max_active_runs, "tags": sorted(dag.tags),
        "title": dag.dag_display_name, "doc": dag.doc_md, "file": dag.fileloc,
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


@pytest.fixture
def project(tmp_path):
    """A project of its own with the digits use case and what the test adds."""
    shutil.copytree(PROJECT / "dags", tmp_path / "dags")
    folder = tmp_path / "configs" / "use_cases"
    folder.mkdir(parents=True)
    shutil.copy(PROJECT / "configs" / "use_cases" / "mnist_digits.yaml", folder)
    return tmp_path


def write(project, name, text):
    (project / "configs" / "use_cases" / f"{name}.yaml").write_text(text)


def digits(name, **replaced):
    text = (PROJECT / "configs" / "use_cases" / "mnist_digits.yaml").read_text()
    text = text.replace("name: mnist_digits", f"name: {name}")
    for old, new in replaced.items():
        assert f"{old}:" in text
        text = "\n".join(new if line.startswith(f"{old}:") else line for line in text.splitlines())
    return text


def test_every_use_case_is_a_dag(bag):
    assert bag["errors"] == {}
    assert set(bag["dags"]) == {path.stem for path in (PROJECT / "configs" / "use_cases").glob("*.yaml")}


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
    assert list(params) == ["epochs", "learning_rate", "devices", "deploy", "force"]
    assert (params["epochs"]["value"], params["epochs"]["type"]) == (12, "integer")
    assert (params["epochs"]["minimum"], params["epochs"]["maximum"]) == (1, 10_000)
    assert (params["learning_rate"]["value"], params["learning_rate"]["exclusiveMinimum"]) == (0.003, 0)
    assert all(param["title"] and param["description"] for param in params.values())
    path = bag["dags"]["cats_dogs"]["params"]["data_path"]
    assert (path["value"], path["type"]) == ("cats-dogs", "string")


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


def test_a_broken_file_tells_file_key_and_value_and_costs_no_other_its_dag(project):
    write(project, "cats", digits("cats", model="model: {name: cnm}"))
    write(project, "dogs", digits("dogs", seed="seed: -1\nepoch: 3"))
    bag = parse(project)
    assert set(bag["dags"]) == {"mnist_digits"}
    assert bag["dags"]["mnist_digits"]["file"].endswith("use_cases.py")
    ((file, message),) = bag["errors"].items()
    assert file.endswith("use_case_errors.py")  # a file of its own: Airflow refuses to trigger Dags beside an error
    assert "cats.yaml: model.name: no model named 'cnm'. Did you mean 'cnn'?" in message
    assert "dogs.yaml: " in message
    assert "seed: -1 is not right" in message
    assert "epoch: unknown key" in message


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("'99 * * * *'", "hourly.yaml: schedule.cron: '99 * * * *' is not a cron expression"),
        ("{assets: ['airflow://x']}", "hourly.yaml: schedule.assets: "),
    ],
)
def test_a_schedule_that_airflow_would_refuse_costs_no_other_its_dag(project, schedule, told):
    write(project, "hourly", digits("hourly", seed=f"seed: 7\nschedule: {schedule}"))
    bag = parse(project)
    assert set(bag["dags"]) == {"mnist_digits"}
    (message,) = bag["errors"].values()
    assert told in message


def test_schedules_come_from_the_yaml(project):
    write(project, "nightly", digits("nightly", seed="seed: 7\nschedule: '0 3 * * *'"))
    write(project, "after", digits("after", seed="seed: 7\nschedule: {assets: ['lepton://datasets/mnist_digits']}"))
    bag = parse(project)
    assert bag["errors"] == {}
    assert bag["dags"]["nightly"]["schedule"] == "0 3 * * *"
    assert "lepton://datasets/mnist_digits" in bag["dags"]["after"]["schedule"]


def test_a_missing_data_folder_is_the_runs_fault_not_the_dags(project):
    write(
        project, "pictures", (PROJECT / "configs/use_cases/cats_dogs.yaml").read_text().replace("cats_dogs", "pictures")
    )
    bag = parse(project)
    assert bag["errors"] == {}
    assert "pictures" in bag["dags"]
