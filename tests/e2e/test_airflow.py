import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from free_ports import free_ports

from lepton_tasks.core.artifacts import parse_ref
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.store import ArtifactStore
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.deployment import embedded, embedded_processes
from lepton_tasks.deployment.airflow_api import AirflowClient
from lepton_tasks.deployment.embedded_services import AIRFLOW_USER, airflow_password
from lepton_tasks.monitoring.alert import record
from lepton_tasks.serving.client import Client
from lepton_tasks.stages.pipeline import STAGES
from lepton_tasks.tracking import registry

PROJECT = Path(__file__).parents[2]
DAG = "mnist_digits"
# A quiet machine needs a quarter of these.
START_SECONDS = 240
RUN_SECONDS = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Platform:
    """Airflow, MLflow and serving of a project and a state folder of their own."""

    def __init__(self, base):
        self.root, self.home, self.project = base / "state", base / "home", base / "project"
        self.home.mkdir()
        for name in ("dags", "plugins", "configs", "lepton_tasks"):  # code too: stages run anew when it changes
            shutil.copytree(PROJECT / name, self.project / name)
        text = (self.project / "configs" / "use_cases" / f"{DAG}.yaml").read_text()
        broken = text.replace(f"name: {DAG}", "name: broken").replace("model: {name: cnn", "model: {name: cnm")
        (self.project / "configs" / "use_cases" / "broken.yaml").write_text(broken)

    def api(self):
        return AirflowClient(self.addresses["airflow_url"], AIRFLOW_USER, airflow_password(self.root), timeout=60)

    def up(self):
        self.addresses = embedded.up(self.root, timeout=START_SECONDS)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    running = Platform(tmp_path_factory.mktemp("airflow"))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LEPTON_", "AIRFLOW"))]:
            patch.delenv(name)
        for name, port in zip(("MLFLOW", "SERVING", "AIRFLOW"), free_ports(3), strict=True):
            patch.setenv(f"LEPTON_{name}_PORT", str(port))
        patch.setenv("HOME", str(running.home))
        patch.chdir(running.project)
        try:
            running.up()
            yield running
        finally:
            embedded.down(running.root)


def demo(platform, *arguments):
    """Exit status and lines of `lepton demo`."""
    command = [sys.executable, "-m", "lepton_tasks.cli", "demo", *arguments]
    variables = os.environ | {"LEPTON_HOME": str(platform.root)}
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=RUN_SECONDS)
    return ran.returncode, ran.stdout.splitlines()


def run_by_demo(platform):
    """A run as the demo shows it, and as Airflow does."""
    began = time.monotonic()
    code, lines = demo(platform)
    seconds = time.monotonic() - began
    run_id = next((line.split()[-1] for line in lines if line.startswith(f"Airflow runs the Dag {DAG}, run ")), None)
    assert run_id, lines
    return followed(platform, run_id) | {"code": code, "lines": lines, "seconds": seconds}


@pytest.fixture(scope="module")
def first_run(platform):
    return run_by_demo(platform)


def followed(platform, run_id):
    """A run's id, and at its end its state, its tasks by stage and the logs of those that failed."""
    with platform.api() as api:
        wait_for(lambda: api.run_state(DAG, run_id) in ("success", "failed"), RUN_SECONDS)
        tasks = {task.task_id.split(".")[1]: task for task in api.tasks(DAG, run_id)}
        failed = [api.log(DAG, run_id, task.task_id) for task in tasks.values() if task.state == "failed"]
        return {"id": run_id, "state": api.run_state(DAG, run_id), "tasks": tasks, "logs": failed}


def wait_for(question, seconds):
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.5)
    return answer


def references(platform, run_id):
    with platform.api() as api:
        return {s.produces: parse_ref(api.xcom(DAG, run_id, f"{s.group}.{s.name}")) for s in STAGES}


def test_a_broken_use_case_is_an_import_error_and_the_others_stay(platform):
    with platform.api() as api:
        api.wait_for_dag(DAG)
        (error,) = wait_for(api.import_errors, 60)
        assert error["filename"] == "use_case_errors.py"
        assert error["stack_trace"].startswith("broken.yaml: model.name: no model named 'cnm'. Did you mean 'cnn'?")
        with pytest.raises(ConfigError, match=r"no Dag 'broken'(.|\n)*no model named 'cnm'"):
            api.wait_for_dag("broken", timeout=0)


def test_a_param_out_of_bounds_is_refused_with_the_bound(platform):
    with platform.api() as api, pytest.raises(ConfigError, match=r"400.*0 is less than the minimum of 1"):
        api.trigger(DAG, {"epochs": 0})


def test_the_scheduler_runs_the_dag_and_the_endpoint_answers_right(platform, first_run):
    import numpy as np
    from PIL import Image

    assert first_run["state"] == "success", first_run["logs"]
    assert {name: task.state for name, task in first_run["tasks"].items()} == {s.name: "success" for s in STAGES}
    refs = references(platform, first_run["id"])
    assert refs["evaluation"].facts["test_accuracy"] > 0.95
    assert refs["endpoint"].facts["version"] == "1"
    folder = ArtifactStore(platform.root).open(refs["features"])
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    inputs, targets = (np.load(folder / "test" / f"{name}.npy", mmap_mode="r")[:40] for name in ("inputs", "targets"))
    right = 0
    with Client(platform.addresses["serving_url"]) as client:
        for pixels, target in zip(inputs, targets, strict=True):
            stream = io.BytesIO()
            Image.fromarray(pixels[:, :, 0]).save(stream, "PNG")
            right += client.predict(DAG, stream.getvalue())["predictions"][0]["label"] == labels[target]
    assert right >= 36


def shown(run):
    """The second word of each line of the demo that begins with a stage or a fact."""
    return {line.split()[0]: line.split()[1] for line in run["lines"] if line[:2] == "  " and len(line.split()) > 1}


def test_the_demo_shows_the_run_and_ends_with_one_line(first_run):
    code, lines = first_run["code"], first_run["lines"]
    assert code == 0, lines
    accuracy = re.fullmatch(r"demo: ok accuracy=(0\.\d{3}) seconds=\d+", lines[-1])
    assert float(accuracy[1]) >= 0.97
    assert shown(first_run).keys() >= {stage.name for stage in STAGES}
    assert shown(first_run)["prediction"].isdigit()
    assert sum(set(line) <= set(" .:-=+*#%@") and "#" in line for line in lines) > 5  # the picture
    assert any(line.split()[:2] == ["stop", "make"] for line in lines)


def test_the_log_of_a_task_holds_the_stages_lines(platform, first_run):
    with platform.api() as api:
        text = api.log(DAG, first_run["id"], "data.clean")
    assert re.search(r"clean wrote store://clean/\w+", text)
    assert re.search(r"\n  rows: \d{4}\n", text)
    assert "Traceback" not in text


def test_a_second_run_reuses_what_has_not_changed(platform, first_run):
    before = references(platform, first_run["id"])
    second = run_by_demo(platform)
    assert second["state"] == "success", second["logs"]
    assert shown(second)["ingest"] == "reused"
    with platform.api() as api:
        for stage in STAGES:
            if stage.reusable:
                assert api.xcom(DAG, second["id"], f"{stage.group}.{stage.name}", "reused") is True
    after = references(platform, second["id"])
    assert {n: r.digest for n, r in after.items() if n not in ("smoke", "monitoring")} == {
        n: r.digest for n, r in before.items() if n not in ("smoke", "monitoring")
    }
    assert second["seconds"] < first_run["seconds"]


def test_without_deploy_the_run_ends_with_a_registered_version(platform, first_run):
    with platform.api() as api:
        result = followed(platform, api.trigger(DAG, {"deploy": False}))
    assert result["state"] == "success", result["logs"]
    states = {name: task.state for name, task in result["tasks"].items()}
    assert states["register"] == "success"
    assert {states[stage.name] for stage in STAGES if stage.deploys} == {"skipped"}


def watched(api, name):
    """A run of a Dag that watches, at its end: its id, and the states of its tasks."""
    dag = f"{name}.watch"
    run_id = api.trigger(dag)
    wait_for(lambda: api.run_state(dag, run_id) in ("success", "failed"), 120)
    assert api.run_state(dag, run_id) == "success"
    return run_id, {task.task_id: task.state for task in api.tasks(dag, run_id)}


def test_what_was_never_deployed_is_watched_in_one_skipped_task(platform):
    with platform.api() as api:
        run_id, states = watched(api, "wine")
        assert states == {"monitor": "skipped", "alert": "skipped", "repair": "skipped"}
        assert "Nothing is deployed." in api.log("wine.watch", run_id, "monitor")


def assert_shown(platform):
    """MLflow and Prometheus show what was found."""
    url = platform.addresses["tracking_url"]
    version = registry.version(url, DAG, "1")
    assert version["tags"]["lepton.severity"] == "critical"
    assert version["tags"]["lepton.checked"].endswith("critical drift label")
    memory = {"run_id": version["run_id"], "metric_key": "monitoring/resources/memory MiB"}
    steps = [one["step"] for one in registry.request_json(url, "metrics/get-history", memory)["metrics"]]
    assert steps == list(range(1, 1 + max(2, len(steps))))  # the run's, ours, and that of the hour if it fell between
    report = registry.request_json(url, "artifacts/list", {"run_id": version["run_id"], "path": "monitoring"})
    assert "monitoring/findings.json" in [file["path"] for file in report["files"]]
    with urllib.request.urlopen(f"{platform.addresses['serving_url']}/metrics") as reply:
        assert f'lepton_finding_severity{{model="{DAG}",monitor="drift"}} 2.0' in reply.read().decode()


def test_the_watch_dag_checks_what_is_deployed_and_starts_a_retraining(platform, first_run):
    file = platform.project / "configs" / "use_cases" / f"{DAG}.yaml"
    ctx = RunContext.from_env("test", {**os.environ, "LEPTON_HOME": str(platform.root)})
    shift = Finding(monitor="drift", severity="critical", message="all digits are 7 now", value=9.0, subject="label")
    record(load_use_case(file), ctx, [shift], version="1")
    text = file.read_text()
    with platform.api() as api:
        run_id, states = watched(api, DAG)
        assert states == {"monitor": "success", "alert": "success", "repair": "success"}
        assert "all digits are 7 now" in api.log(f"{DAG}.watch", run_id, "alert")
        (told,) = api.xcom(f"{DAG}.watch", run_id, "repair")
        assert "unchanged since the last training: retraining would produce the same model" in told
        assert_shown(platform)
        file.write_text(re.sub(r"learning_rate: [\d.]+", "learning_rate: 0.002", text))
        try:
            run_id, _ = watched(api, DAG)
            repair = f"repair__{re.sub(r'[^A-Za-z0-9_.-]', '-', run_id)}"
            assert api.run_state(DAG, repair) in ("queued", "running")
        finally:
            file.write_text(text)
        wait_for(lambda: not api.is_active(DAG), RUN_SECONDS)  # all its stages are reused, as the file is as it was


def test_a_demo_that_cannot_run_says_at_which_step(platform):
    code, lines = demo(platform, "no_such_use_case")
    assert code == 1
    assert re.match(r"demo: failed at start: .*no_such_use_case.yaml: no such file", lines[-1])


def stage_processes(root, module="lepton_tasks."):
    """Processes of a stage or of what it starts, under the services of this state folder.

    A fork of the stage host has the host's command line; its name tells what it is.
    """
    services = {record.pid for record in embedded_processes.recorded(root).values()}
    found = []
    for process in embedded_processes.running_processes(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if "lepton_tasks.serving" in words:  # it has several processes
                continue
            if "lepton_tasks.stages.host" in words:
                words = [f"lepton_tasks.{process.name()}"]
            if process.pid not in services and any(word.startswith(module) for word in words):
                found.append(process)
    return found


def test_a_killed_train_task_leaves_no_process(platform, first_run):
    with platform.api() as api:
        run_id = api.trigger(DAG, {"epochs": 5000, "learning_rate": 0.001})
        wait_for(lambda: stage_processes(platform.root, "lepton_tasks.training"), RUN_SECONDS)
        family = stage_processes(platform.root)
        assert len(family) >= 2  # the stage, and what it trains in
        api.set_task_state(DAG, run_id, "training.train", "failed")
        wait_for(lambda: not stage_processes(platform.root), 60)
        assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
        wait_for(lambda: api.run_state(DAG, run_id) == "failed", 60)


def test_everything_listens_on_this_machine_only(platform):
    listening = set()
    for process in embedded_processes.running_processes(platform.root):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            listening |= {
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and not connection.raddr
            }
    assert listening == {"127.0.0.1"}


def test_a_component_that_dies_is_started_again(platform):
    def scheduler():
        record = embedded_processes.recorded(platform.root)["airflow"]
        for child in record.process().children():
            if any("airflow worker" in " ".join(grandchild.cmdline()) for grandchild in child.children()):
                return child
        return None

    old = wait_for(scheduler, 60)
    time.sleep(max(0.0, 61 - (time.time() - old.create_time())))  # what dies sooner is not worth it
    old.kill()
    new = wait_for(lambda: (found := scheduler()) and found.pid != old.pid and found, 120)
    assert new.is_running()
    wait_for(lambda: embedded.status(platform.root)["airflow"]["state"] == "running", 60)


def test_nothing_is_left_in_the_home_directory_nor_after_down(platform, first_run):
    family = embedded_processes.running_processes(platform.root)
    assert len(family) >= 7
    assert embedded.down(platform.root) == ["airflow", "mlflow", "serving", "stages"]
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert embedded_processes.running_processes(platform.root) == set()
    assert list(platform.home.iterdir()) == []
