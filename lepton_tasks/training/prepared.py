"""Pre-started training process: imports libraries while data are prepared, which saves 4 s on a slow machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

OPTION = "--prepared"
"""Worker option: import first, then read the arguments, a JSON list, from standard input."""

WORKER = [sys.executable, "-m", "lepton_tasks.training.worker"]

_FREE = ("GX_", "MLFLOW_")  # variables of libraries unused in training: stages set some

_waiting: list[tuple[dict[str, str], subprocess.Popen[bytes]]] = []  # at most one; single use


@contextlib.contextmanager
def dismissed() -> Iterator[None]:
    """End an unused process on exit from the context."""
    try:
        yield
    finally:
        while _waiting:
            _, process = _waiting.pop()
            process.kill()
            process.communicate()


def prepare(environment: Mapping[str, str]) -> None:
    """Start a process for a later training, unless one is waiting; it ends with this one."""
    if not _waiting:
        process = subprocess.Popen([*WORKER, OPTION], env=dict(environment), stdin=subprocess.PIPE)
        _waiting.append((_read(environment), process))


def take(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Run ``WORKER + arguments`` in the waiting process; None if there is none for this environment."""
    if not _waiting or _waiting[0][0] != _read(environment):
        return None
    _, process = _waiting.pop()
    try:
        assert process.stdin is not None
        with process.stdin as stream:
            stream.write(json.dumps(list(arguments)).encode() + b"\n")
    except BrokenPipeError:  # it has died
        process.wait()
        return None
    return process


def _read(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a training reads."""
    return {name: value for name, value in environment.items() if not name.startswith(_FREE)}
