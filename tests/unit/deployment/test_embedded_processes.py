import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lepton_tasks.deployment import embedded_processes as processes

# Ignores SIGTERM, and leaves a grandchild in a session of its own that ignores it too.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def root(tmp_path):
    yield tmp_path
    processes.stop(tmp_path, processes.recorded(tmp_path), grace=0)


def start(root, name, code):
    command = [sys.executable, "-S", "-c", code]
    return processes.start(name, command, root=root, cwd=root, environment=dict(os.environ), port=1)


def wait_for(question, seconds=10):
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_service_has_a_session_of_its_own_and_its_output_in_a_log(root):
    record = start(root, "one", "print('hello', flush=True); import time; time.sleep(600)")
    wait_for(lambda: processes.tail(processes.log_path(root, "one")) == "hello")
    assert os.getsid(record.pid) == record.pid
    assert processes.recorded(root) == {"one": record}
    assert record.process().pid == record.pid


def test_end_takes_children_that_ignore_sigterm_or_left_the_session(root):
    start(root, "one", STUBBORN)
    wait_for(
        lambda: (
            "ready" in processes.tail(processes.log_path(root, "one")) and len(processes.running_processes(root)) == 2
        )
    )
    family = processes.running_processes(root)
    assert processes.stop(root, ["one"], grace=0.2) == ["one"]
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert processes.recorded(root) == {}


def test_end_finds_what_outlived_a_killed_service(root):
    record = start(root, "one", STUBBORN)
    wait_for(lambda: len(processes.running_processes(root)) == 2)
    os.kill(record.pid, signal.SIGKILL)
    wait_for(lambda: record.process() is None)
    (orphan,) = processes.running_processes(root)
    assert processes.stop(root, ["one"], grace=0.2) == []
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_end_leaves_other_services_alone(root):
    start(root, "one", "import time; time.sleep(600)")
    other = start(root, "two", "import time; time.sleep(600)")
    processes.stop(root, ["one"])
    assert set(processes.recorded(root)) == {"two"}
    assert other.process() is not None


def test_a_pid_that_was_given_out_again_is_not_ours(root):
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        record = processes.Record("one", stranger.pid, psutil.Process(stranger.pid).create_time() - 100, port=1)
        assert record.process() is None
        (root / "run").mkdir()
        (root / "run" / "one.process.json").write_text(
            f'{{"name": "one", "pid": {stranger.pid}, "created": {record.created}, "port": 1}}'
        )
        assert processes.stop(root, ["one"]) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
