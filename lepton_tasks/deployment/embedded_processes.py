"""Background services: started in their own sessions, recorded on disk, stopped with their children."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from lepton_tasks.core.errors import ArtifactError
from lepton_tasks.core.store import write_json

# Inherited by every service and its children, so that orphaned processes are found.
MARKER_VARIABLE = "LEPTON_STARTED_BY"


@dataclasses.dataclass(frozen=True)
class Record:
    """A started process. The creation time is needed because pids are reused."""

    name: str
    pid: int
    created: float
    port: int | None

    def process(self) -> psutil.Process | None:
        """The process, if it is still running."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.01
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def start(
    name: str,
    command: Sequence[str],
    *,
    root: Path,
    cwd: Path,
    environment: Mapping[str, str],
    port: int | None,
) -> Record:
    """Start a service in its own session with output in ``root/logs/<name>.log``, and record it."""
    log = log_path(root, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, MARKER_VARIABLE: f"{root}:{name}"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _detached.append(process)
    record = Record(name, process.pid, psutil.Process(process.pid).create_time(), port)
    _record_path(root, name).parent.mkdir(parents=True, exist_ok=True)
    write_json(_record_path(root, name), dataclasses.asdict(record))
    return record


# Prevents the warning of a Popen that is garbage-collected while its process runs.
_detached: list[subprocess.Popen[bytes]] = []


def recorded(root: Path) -> dict[str, Record]:
    """Records of services that were not stopped, by name; their processes may have died."""
    records = {}
    for path in sorted((root / "run").glob("*.process.json")):
        record = Record(**json.loads(path.read_text()))
        records[record.name] = record
    return records


def log_path(root: Path, name: str) -> Path:
    """The log file of a service."""
    return root / "logs" / f"{name}.log"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def stop(root: Path, names: Iterable[str], *, grace: float = 10.0) -> list[str]:
    """Stop services and their child processes: SIGTERM, `grace` seconds, SIGKILL.

    Returns:
        The names of those that were running.

    Raises:
        ArtifactError: a process does not exit.
    """
    records = {name: record for name, record in recorded(root).items() if name in set(names)}
    alive = [name for name, record in records.items() if record.process()]
    remaining: set[psutil.Process] = set()
    deadline = time.monotonic() + grace
    for signal_name in ("terminate", "kill", "kill"):  # twice: a process may fork while it is being killed
        remaining = _find_processes(root, records.values())
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal_name)()
        patience = max(0.0, deadline - time.monotonic()) if signal_name == "terminate" else 3.0
        _, left = psutil.wait_procs(remaining, timeout=patience)
        remaining = set(left)
    if remaining:
        raise ArtifactError(
            f"{len(remaining)} process(es) did not exit: {', '.join(f'{p.pid} ({p.name()})' for p in remaining)}.",
            fix="Inspect them with `ps`.",
        )
    for name in records:
        _record_path(root, name).unlink(missing_ok=True)
    return alive


def running_processes(root: Path) -> set[psutil.Process]:
    """All live processes of the services of this state folder."""
    return _find_processes(root, recorded(root).values())


def _find_processes(root: Path, records: Iterable[Record]) -> set[psutil.Process]:
    """Descendants, members of the sessions, and processes with the marker variable: each criterion alone misses some.

    An orphan is not a descendant, a process can create its own session, and one that changes its title may overwrite
    its environment.
    """
    found: set[psutil.Process] = set()
    sessions, markers = set(), set()
    for record in records:
        markers.add(f"{root}:{record.name}")
        process = record.process()
        if process is not None:
            found |= {process, *_descendants(process)}
        if process is not None or not psutil.pid_exists(record.pid):
            sessions.add(record.pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in sessions or process.environ().get(MARKER_VARIABLE) in markers:
                found |= {process, *_descendants(process)}
    return {p for p in found if p.pid != os.getpid() and _is_alive(p)}


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _record_path(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.process.json"
