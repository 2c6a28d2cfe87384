"""Local deployment: MLflow, serving and Airflow on one machine, with all state in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lepton_tasks.core.environment import (
    forget_addresses,
    load_environment,
    project_root,
    record_addresses,
)
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.stage_host_client import SOCKET_FILE, connect
from lepton_tasks.deployment import embedded_processes as processes
from lepton_tasks.deployment import embedded_services as definitions

ADDRESSES = {"mlflow": "tracking_url", "serving": "serving_url", "airflow": "airflow_url"}
"""Field of `Environment` with the address of each service."""

SERVICES = tuple(ADDRESSES)

_STAGE_HOST = "stages"  # started with Airflow; without an address, and optional: it only saves time

OnEvent = Callable[[str, str, float], None]
"""Called with a service's name, ``"starting" | "running" | "ready"``, and the seconds since `up` was called."""

_VARIABLES = {"mlflow": "LEPTON_MLFLOW_PORT", "serving": "LEPTON_SERVING_PORT", "airflow": "LEPTON_AIRFLOW_PORT"}
_LOCAL = ("127.0.0.1", "localhost")


def up(
    root: Path,
    *,
    services: Sequence[str] = SERVICES,
    on_event: OnEvent = lambda service, state, seconds: None,
    timeout: float = 180.0,
) -> dict[str, str]:
    """Start the services that are not running, and wait until they respond.

    Args:
        root: The state folder.
        services: Subset of `SERVICES`.
        on_event: Called for each service that starts, is already running, or is ready.
        timeout: Seconds until a service that does not respond counts as failed.

    Returns:
        ``airflow_url``, ``tracking_url`` and ``serving_url`` of the given services, and ``airflow_password`` if it was
        generated now: it is shown only once.

    Raises:
        ConfigError: a port is in use, or this is not a project folder; nothing was started.
        UnavailableError: a service exited or did not respond; the services started by this call were stopped.
    """
    return begin(root, services=services, on_event=on_event, timeout=timeout)()


def begin(
    root: Path,
    *,
    services: Sequence[str] = SERVICES,
    on_event: OnEvent = lambda service, state, seconds: None,
    timeout: float = 180.0,
) -> Callable[[], dict[str, str]]:
    """As `up`, without waiting: returns a function that waits for the services, and returns or raises as `up` does.

    Raises:
        ConfigError: a port is in use, or this is not a project folder; nothing was started.
    """
    root = root.resolve()
    project = project_root()
    if unknown := set(services) - set(SERVICES):
        raise ConfigError(f"no service named {sorted(unknown)[0]!r}.", fix=f"Known: {', '.join(SERVICES)}.")
    if "airflow" in services and not (project / "dags").is_dir():
        raise ConfigError(
            "not a Lepton project: there is no `dags` folder.", where=str(project), fix="Run it in the project."
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(root))
        started = _Startup(root, project, services, on_event, timeout)
        started.begin()
        lock = stack.pop_all()

    def finish() -> dict[str, str]:
        with lock:
            return started.finish()

    return finish


def down(root: Path, *, grace: float = 30.0) -> list[str]:
    """Stop all services of this state folder and their child processes; returns the names of those that were running.

    The server finishes accepted requests for up to 25 s (`serving.app.STOP_SECONDS`), so `grace` is longer.
    """
    root = root.resolve()
    with _locked(root):
        ended = processes.stop(root, processes.recorded(root), grace=grace)
        forget_addresses(root)
    return ended


def status(root: Path) -> dict[str, dict[str, Any]]:
    """The started services by name: ``state`` ("running", "starting" or "stopped"), ``pid``, ``url``, ``log``."""
    root = root.resolve()
    report = {}
    for name, record in processes.recorded(root).items():
        url = f"http://{definitions.HOST}:{record.port}" if record.port else f"unix:{root / SOCKET_FILE}"
        state = "stopped"
        if record.process():
            state = "running" if _responds(root, record, url) else "starting"
        log = str(processes.log_path(root, name))
        report[name] = {"state": state, "pid": record.pid, "url": url, "log": log}
    return report


def is_local(url: str) -> bool:
    """Whether a URL points to this machine."""
    return urlsplit(url).hostname in _LOCAL


class _Startup:
    """State of one `up` call."""

    def __init__(self, root: Path, project: Path, services: Sequence[str], on_event: OnEvent, timeout: float) -> None:
        self.root, self.project, self.timeout = root, project, timeout
        self.services = [*services, _STAGE_HOST] if "airflow" in services else list(services)
        self.began = time.monotonic()
        self.on_event = on_event
        self.environment = load_environment({**os.environ, "LEPTON_HOME": str(root)})
        self.records = {n: r for n, r in processes.recorded(root).items() if r.process()}
        self.urls = self._urls()
        self.ports = {name: urlsplit(url).port or 80 for name, url in self.urls.items()}

        self.missing = [name for name in self.services if name not in self.records]
        self.result = {field: self.urls[name] for name, field in ADDRESSES.items() if name in self.services}

    def begin(self) -> None:
        """Start the services that are not running."""
        processes.stop(self.root, self.missing, grace=3)  # orphans of a killed service still hold its port
        for name in self.missing:
            if name in ADDRESSES:
                self._check_port(name)
        for folder in ("mlflow/artifacts", "serving", "cache"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        if "airflow" in self.missing:
            password = definitions.write_airflow_config(self.root, self.project, self.ports["airflow"])
            self.result |= {"airflow_password": password} if password else {}
        with self._stopped_on_error():
            for name in self.services:
                if name in self.missing:
                    self._start(name)
                else:
                    self._report(name, "running")

    def finish(self) -> dict[str, str]:
        """Wait until the started services respond."""
        with self._stopped_on_error():
            self._wait([name for name in self.missing if name in ADDRESSES])
        record_addresses(self.root, {field: self.urls[name] for name, field in ADDRESSES.items()})
        return self.result

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            processes.stop(self.root, self.missing, grace=3)
            raise

    def _report(self, name: str, state: str) -> None:
        self.on_event(name, state, time.monotonic() - self.began)

    def _urls(self) -> dict[str, str]:
        """The configured addresses; for running services, the actual ones."""
        urls = {name: str(getattr(self.environment, field)) for name, field in ADDRESSES.items()}
        return urls | {n: f"http://{definitions.HOST}:{r.port}" for n, r in self.records.items() if n in ADDRESSES}

    def _check_port(self, name: str) -> None:
        if not is_local(self.urls[name]):
            raise ConfigError(
                f"{name} is configured at {self.urls[name]}, which is not this machine.",
                fix=f"Leave {name} out, or give it a local address.",
            )
        if not _is_free(port := self.ports[name]):
            raise ConfigError(
                f"port {port} of {definitions.HOST}, which {name} needs, is taken by another program.",
                fix=f"Choose another: {_VARIABLES[name]}={_free_port_after(port)}",
            )

    def _start(self, name: str) -> None:
        self._report(name, "starting")
        self.records[name] = processes.start(
            name,
            definitions.commands(self.root, self.ports, self.urls["mlflow"])[name],
            root=self.root,
            cwd=self.project,
            environment=definitions.child_environment(self.root, self.project, self.environment, self.urls),
            port=self.ports.get(name),
        )

    def _wait(self, started: Sequence[str]) -> None:
        waiting = list(started)
        while waiting:
            for name in list(waiting):
                record = self.records[name]
                log = processes.log_path(self.root, name)
                if record.process() is None:
                    raise _failed(name, "exited during start-up", log)
                if definitions.probe(name, self.urls[name], record.created):
                    waiting.remove(name)
                    self._report(name, "ready")
                elif time.monotonic() - self.began > self.timeout:
                    raise _failed(name, f"did not answer within {self.timeout:.0f} s", log)
            time.sleep(0.2)


def _responds(root: Path, record: processes.Record, url: str) -> bool:
    if record.name != _STAGE_HOST:
        return definitions.probe(record.name, url, record.created)
    try:
        connect(root).close()
    except OSError:
        return False
    return True


def _failed(name: str, how: str, log: Path) -> UnavailableError:
    return UnavailableError(f"{name} {how}. Its log ends with:\n{processes.tail(log)}\n", fix=f"Full log: {log}")


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock the state folder: concurrent `up` calls would start everything twice."""
    (root / "run").mkdir(parents=True, exist_ok=True)
    with (root / "run" / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((definitions.HOST, port))
        except OSError:
            return False
        return True


def _free_port_after(port: int) -> int:
    return next(p for p in range(port + 1, 65536) if _is_free(p))
