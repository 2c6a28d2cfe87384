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

# Every service and all it starts inherit this variable, so that what outlived its parent is still found.
MARK = "LEPTON_STARTED_BY"


@dataclasses.dataclass(frozen=True)
class Record:
    """A process we started. A pid alone is not enough: the kernel gives it out again."""

    name: str
    pid: int
    created: float
    port: int | None

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
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
    """Start a service in a session of its own, its output in ``root/logs/<name>.log``, and remember it."""
    log = log_path(root, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, MARK: f"{root}:{name}"},
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


# Kept, because a Popen that is collected while its process runs warns about it.
_detached: list[subprocess.Popen[bytes]] = []


def recorded(root: Path) -> dict[str, Record]:
    """What was started and not yet ended, by name; it may have died since."""
    records = {}
    for path in sorted((root / "run").glob("*.process.json")):
        record = Record(**json.loads(path.read_text()))
        records[record.name] = record
    return records


def log_path(root: Path, name: str) -> Path:
    """Where a service's output goes."""
    return root / "logs" / f"{name}.log"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def end(root: Path, names: Iterable[str], *, grace: float = 10.0) -> list[str]:
    """End services and all they started: SIGTERM, `grace` seconds, SIGKILL.

    Returns:
        The names that were running.

    Raises:
        ArtifactError: if a process cannot be ended.
    """
    records = {name: record for name, record in recorded(root).items() if name in set(names)}
    alive = [name for name, record in records.items() if record.process()]
    remaining: set[psutil.Process] = set()
    deadline = time.monotonic() + grace
    for signal_name in ("terminate", "kill", "kill"):  # twice: a process may fork while it is being killed
        remaining = _families(root, records.values())
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


def family(root: Path) -> set[psutil.Process]:
    """Every live process that belongs to the services of this state folder."""
    return _families(root, recorded(root).values())


def _families(root: Path, records: Iterable[Record]) -> set[psutil.Process]:
    """Descendants, members of the sessions, and whoever inherited our mark: each alone misses some.

    A process whose parent died is nobody's descendant, one that made a session of its own left ours, and one that
    renamed itself overwrote its environment.
    """
    found: set[psutil.Process] = set()
    sessions, marks = set(), set()
    for record in records:
        marks.add(f"{root}:{record.name}")
        process = record.process()
        if process is not None:
            found |= {process, *_descendants(process)}
        if process is not None or not psutil.pid_exists(record.pid):
            sessions.add(record.pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) in sessions or process.environ().get(MARK) in marks:
                found |= {process, *_descendants(process)}
    return {p for p in found if p.pid != os.getpid() and _runs(p)}


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _record_path(root: Path, name: str) -> Path:
    return root / "run" / f"{name}.process.json"
