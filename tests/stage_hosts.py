"""A stage host for a test, and what is asked of it."""

import contextlib
import os
import subprocess
import sys
import time

import psutil

from lepton_tasks.core import stage_host_client


def wait_for(question, seconds=10):
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.02)
    return answer


def runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class StageHost:
    """A running host. The folder `modules` is where it and its forks find modules beside their own."""

    def __init__(self, root, libraries, modules=None, **variables):
        self.root = root
        (root / "run").mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, "LEPTON_HOME": str(root), "PYTHONPATH": str(modules or ""), **variables}
        command = [sys.executable, "-m", "lepton_tasks.stages.host", str(root), *libraries]
        with (root / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        wait_for(self.answers)

    def answers(self):
        try:
            stage_host_client.connect(self.root).close()
        except OSError:
            return False
        return True

    def start(self, *arguments, grace=5.0, output=None, **variables):
        environment = {**self.environment, **variables}
        return stage_host_client.start(
            [sys.executable, "-m", *arguments], environment=environment, grace=grace, output=output
        )

    def tell(self, *arguments, **options):
        """What a fork prints, and its exit status."""
        reader, writer = os.pipe()
        with os.fdopen(reader) as stream:
            process = self.start(*arguments, output=writer, **options)
            os.close(writer)
            assert process is not None, (self.root / "log").read_text()
            told = stream.read()
            return told, process.wait()

    def cpu_seconds(self):
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self):
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def stage_host(root, *libraries, **options):
    host = StageHost(root, libraries, **options)
    try:
        yield host
    finally:
        host.stop()
