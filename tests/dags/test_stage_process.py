import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from lepton_airflow.process import StageProcess
from stage_hosts import runs, stage_host

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.errors import DataError, StageError

RAW = DatasetRef(uri="store://ingest/abc", digest="0" * 64, stage="ingest", facts={"rows": 3})

# The command line of `python -m lepton_tasks.stages`, with what a test wants to happen in the middle.
STAGE = """
import json, os, signal, subprocess, sys, time
options = dict(zip(sys.argv[1:-1], sys.argv[2:]))
refs = json.load(open(options["--refs"]))
def result(ref=None, error=None):
    with open(options["--result"], "w") as stream:
        json.dump({"ref": ref, "error": error}, stream)
"""


@pytest.fixture(params=["a child", "a fork of the host"])
def way(request, tmp_path, monkeypatch):
    """Called in a test, gives the interpreter's arguments for a stage, after starting the host if that is the way.

    Not earlier: pytest changes the environment between a fixture and its test.
    """
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
    with contextlib.ExitStack() as stack:

        def arguments():
            if request.param == "a child":
                return ["-S", str(tmp_path / "stage.py")]
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
            host = stack.enter_context(stage_host(tmp_path / "state", modules=tmp_path))
            stack.callback(lambda: forked(host))
            return ["-m", "stage"]

        yield arguments


def forked(host):
    assert (host.root / "log").read_text() == "", "the host was to fork"


def stage(tmp_path, way, body):
    script = tmp_path / "stage.py"
    script.write_text(STAGE + body)
    process = StageProcess("clean", tmp_path / "use_case.yaml", {"train.epochs": 3}, run_id="run")
    process._command[1:3] = way()  # instead of -m lepton_tasks.stages
    return process


def test_lines_are_handed_on_as_they_come_and_the_reference_is_read_back(tmp_path, way):
    lines = []
    body = """
print("one", flush=True)
print("two", file=sys.stderr, flush=True)
print(options["--set"], flush=True)
assert "AIRFLOW__API__SECRET_KEY" not in os.environ
result(ref={**refs["raw"], "stage": "clean"})
"""
    os.environ["AIRFLOW__API__SECRET_KEY"] = "hidden"
    try:
        ref = stage(tmp_path, way, body).run({"raw": RAW}, on_line=lines.append)
    finally:
        del os.environ["AIRFLOW__API__SECRET_KEY"]
    assert lines == ["one", "two", "train.epochs=3"]
    assert ref == RAW.model_copy(update={"stage": "clean"})


def test_the_stages_own_error_comes_back(tmp_path, way):
    error = DataError("no pictures.", where="cats", fix="Add some.").to_dict()
    with pytest.raises(DataError, match=r"cats: no pictures\. Add some\."):
        stage(tmp_path, way, f"result(error={error!r}); sys.exit(1)").run({}, on_line=print)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL.*memory"),
        ("sys.exit(3)", r"ended with status 3"),
    ],
)
def test_a_process_that_dies_without_a_result_may_be_tried_again(tmp_path, way, body, told):
    with pytest.raises(StageError, match=told) as caught:
        stage(tmp_path, way, body).run({}, on_line=print)
    assert caught.value.retryable


# A task: runs a stage that starts a worker; both ignore SIGTERM or not, as the test says.
TASK = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lepton_airflow.process import StageProcess
process = StageProcess("train", Path("x.yaml"), {}, run_id="run")
process._command[1:3] = sys.argv[2:]
signal.signal(signal.SIGTERM, lambda *_: process.end(grace=0.5))
try:
    process.run({}, on_line=lambda line: print(line, flush=True))
except Exception as error:
    print(error, flush=True)
"""
WORKER = """
stubborn = {stubborn}
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
worker = subprocess.Popen([sys.executable, "-S", "-c", ignore + "import time; time.sleep(600)"])
time.sleep(0.3)
print(os.getpid(), worker.pid, flush=True)
time.sleep(600)
"""


def start_task(tmp_path, way, plugins, *, stubborn):
    task, script = tmp_path / "task.py", tmp_path / "stage.py"
    task.write_text(TASK)
    script.write_text(STAGE + WORKER.format(stubborn=stubborn))
    command, environment = [sys.executable, task, plugins, *way()], dict(os.environ)  # without what readline has put in
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    return process, [psutil.Process(pid) for pid in pids]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_killed_task_takes_the_stage_and_its_workers_along(tmp_path, way, pytestconfig, stubborn):
    task, family = start_task(tmp_path, way, pytestconfig.rootpath / "plugins", stubborn=stubborn)
    with task:
        task.send_signal(signal.SIGTERM)
        told = task.stdout.read()
    assert not any(runs(process) for process in family)
    assert ("SIGKILL" if stubborn else "SIGTERM") in told


def test_a_stage_ends_even_if_its_task_is_ended_by_sigkill(tmp_path, way, pytestconfig):
    task, (stage_process, worker) = start_task(tmp_path, way, pytestconfig.rootpath / "plugins", stubborn=False)
    try:
        task.kill()
        task.wait()
        deadline = time.monotonic() + 5
        while runs(stage_process):
            assert time.monotonic() < deadline, "the stage outlived its task"
            time.sleep(0.02)
    finally:
        worker.kill()  # a child's plain worker is not told; the training's own are
        task.stdout.close()
