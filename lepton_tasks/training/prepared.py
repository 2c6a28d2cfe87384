"""A training process that imports its libraries while the data are still being prepared: 4 s on a slow machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

OPTION = "--prepared"
"""Tells the worker to import first and to read its arguments, a JSON list, from standard input."""

WORKER = [sys.executable, "-m", "lepton_tasks.training.worker"]

_FREE = ("GX_", "MLFLOW_")  # variables of libraries that no training imports: stages set some

_waiting: list[tuple[dict[str, str], subprocess.Popen[bytes]]] = []  # one at most: it is used once


@contextlib.contextmanager
def dismissed() -> Iterator[None]:
    """When the block is left, a process that nobody needed has ended."""
    try:
        yield
    finally:
        while _waiting:
            _, process = _waiting.pop()
            process.kill()
            process.communicate()


def prepare(environment: Mapping[str, str]) -> None:
    """Start a process for a training to come, unless one waits already; it ends with this one."""
    if not _waiting:
        process = subprocess.Popen([*WORKER, OPTION], env=dict(environment), stdin=subprocess.PIPE)
        _waiting.append((_read(environment), process))


def take(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """The process that waits, told to do as ``WORKER + arguments`` does; None if none waits for this environment."""
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
    """What a training reads of the environment."""
    return {name: value for name, value in environment.items() if not name.startswith(_FREE)}
