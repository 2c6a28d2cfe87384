import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

# In place of Airflow: every command notes its pid; "scheduler" ends as the test says.
AIRFLOW = """
import os, sys, time
def main():
    with open(os.environ["PIDS"], "a") as stream:
        print(sys.argv[1], os.getpid(), file=stream)
    if sys.argv[1] == "db":
        return
    if sys.argv[1] == "scheduler" and os.environ.get("BROKEN"):
        print("no such table: dag", file=sys.stderr)
        sys.exit(3)
    time.sleep(600)
"""
START = """
import sys
from pathlib import Path
from lepton_airflow import components
components._SHARED = ()
components._CRASH_SECONDS = float(sys.argv.pop())
sys.exit(components.main())
"""


class Launcher:
    def __init__(self, folder, plugins, *, crash_seconds, **variables):
        (folder / "airflow").mkdir()
        (folder / "airflow" / "__init__.py").write_text("__version__ = '3.0'")
        (folder / "airflow" / "__main__.py").write_text(AIRFLOW)
        self.file = folder / "pids"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}:{plugins}",
            "PIDS": str(self.file),
            "AIRFLOW_HOME": str(folder),
            **variables,
        }
        command = [sys.executable, "-c", START, str(folder), str(crash_seconds)]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def pids(self, count):
        deadline = time.monotonic() + 20
        while not self.file.exists() or len(lines := self.file.read_text().splitlines()) < count:
            assert time.monotonic() < deadline, "the components did not start"
            time.sleep(0.02)
        return [(name, int(pid)) for name, pid in (line.split() for line in lines)]

    def gone(self):
        deadline = time.monotonic() + 10
        while any(runs(pid) for _, pid in self.pids(1)):
            assert time.monotonic() < deadline, "a component was left"
            time.sleep(0.02)
        return True


def runs(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def launch(tmp_path, pytestconfig):
    launchers = []

    def start(**arguments):
        launchers.append(Launcher(tmp_path, pytestconfig.rootpath / "plugins", **arguments))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.process.kill()
        launcher.process.communicate()
        launcher.gone()


def test_a_component_that_dies_is_started_again(launch):
    launcher = launch(crash_seconds=0)
    started = dict(launcher.pids(5))
    assert set(started) == {"db", "api-server", "scheduler", "dag-processor", "triggerer"}
    os.kill(started["scheduler"], signal.SIGKILL)
    name, pid = launcher.pids(6)[5]
    assert name == "scheduler"
    assert runs(pid)
    assert runs(started["api-server"])


def test_one_that_dies_at_once_ends_all_and_shows_its_log(launch):
    launcher = launch(crash_seconds=60, BROKEN="1")
    _, told = launcher.process.communicate(timeout=20)
    assert launcher.process.returncode == 1
    assert "scheduler ended with status 3" in told
    assert "no such table: dag" in told
    assert launcher.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_components_end_with_their_launcher(launch, number):
    launcher = launch(crash_seconds=60)
    launcher.pids(5)
    launcher.process.send_signal(number)
    launcher.process.wait(20)
    assert launcher.gone()


def test_the_database_is_migrated_once_a_version(launch, tmp_path):
    (tmp_path / "database.version").write_text("3.0")
    launcher = launch(crash_seconds=60)
    assert "db" not in dict(launcher.pids(4))
