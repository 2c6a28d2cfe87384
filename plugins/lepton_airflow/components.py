"""Run Airflow's components on one machine: imported once, forked four times, restarted on failure.

Importing Airflow takes each component 3 to 4 seconds of processor time when started separately, half of Airflow's
start-up cost (37 s in five processes, 18 s with one import).
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from lepton_tasks.core.lifetime import die_with

COMPONENTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),  # the log servers would listen on every interface
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}

# Modules that all components need.
_SHARED = (
    "airflow.cli.cli_parser",
    "airflow.api_fastapi.app",
    "airflow.jobs.scheduler_job_runner",
    "airflow.jobs.dag_processor_job_runner",
    "airflow.jobs.triggerer_job_runner",
)
_CRASH_SECONDS = 60.0


class ComponentError(RuntimeError):
    """A component failed and is not restarted."""


class Components:
    """The components as children of this process.

    Args:
        logs: Folder of the log files, one per component.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        """Start all and restart those that exit; raises `ComponentError` if one exits soon after its start."""
        for name in COMPONENTS:
            self._start(name)
        try:
            while True:
                pid, status = os.wait()
                name, started = self._running.pop(pid, ("", 0.0))
                if not name:
                    continue
                exit_text = f"{name} ended with status {os.waitstatus_to_exitcode(status)}"
                if time.monotonic() - started < _CRASH_SECONDS:
                    raise ComponentError(f"{exit_text}. Its log ends with:\n{_tail(self.logs / f'airflow-{name}.log')}")
                print(f"{exit_text}; it is started again.", file=sys.stderr, flush=True)
                self._start(name)
        finally:
            for pid in self._running:
                os.kill(pid, signal.SIGTERM)

    def migrate(self, done: Path) -> None:
        """Migrate the database to the installed version, unless the file `done` names this version."""
        from airflow import __version__

        if done.exists() and done.read_text() == __version__:
            return
        _, status = os.waitpid(self._fork("database", ("db", "migrate")), 0)
        if status:
            raise ComponentError(f"`airflow db migrate` failed:\n{_tail(self.logs / 'airflow-database.log')}")
        done.write_text(__version__)

    def _start(self, name: str) -> None:
        self._running[self._fork(name, COMPONENTS[name])] = (name, time.monotonic())

    def _fork(self, name: str, arguments: tuple[str, ...]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(self.logs / f"airflow-{name}.log", arguments, parent)
        return pid


def _become(log: Path, arguments: tuple[str, ...], parent: int) -> NoReturn:
    """Turn a forked child into ``airflow <arguments>``."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with(parent)
        stream = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.argv = ["airflow", *arguments]
        importlib.import_module("airflow.__main__").main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def main() -> int:
    """Run the components until SIGTERM; logs go into the folder named by the first argument."""
    signal.signal(signal.SIGTERM, _terminate)
    for module in _SHARED:
        importlib.import_module(module)
    gc.freeze()  # a collection in a child would copy the shared pages
    components = Components(Path(sys.argv[1]))
    try:
        components.migrate(Path(os.environ["AIRFLOW_HOME"]) / "database.version")
        components.run()
    except ComponentError as error:
        print(error, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
