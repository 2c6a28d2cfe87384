"""Keeps several processes of one server running on one port."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from lepton_tasks.core import lifetime

_QUICK_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 10.0
_BACKLOG = 2048

_log = logging.getLogger("lepton.serving.supervisor")


class Supervisor:
    """Starts the processes, starts those anew that end, and ends them with itself.

    Args:
        command: What starts one; ``--member N --fd N`` is added.
        size: How many.
        address: Host and port to listen on.
        grace: Seconds that they get to answer what they have accepted.
    """

    def __init__(self, command: Sequence[str], size: int, address: tuple[str, int], *, grace: float) -> None:
        self._command, self._grace = list(command), grace
        self._socket = socket.create_server(
            address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET, backlog=_BACKLOG
        )
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size
        self._due = [0.0] * size
        self._pauses = [0.0] * size
        self._began = [0.0] * size
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self._stopping:
            for member in range(len(self._processes)):
                self._keep(member)
            time.sleep(0.05)
        running = [process for process in self._processes if process is not None]
        deadline = time.monotonic() + self._grace
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._socket.close()
        return 0

    def _keep(self, member: int) -> None:
        process, now = self._processes[member], time.monotonic()
        if process is not None and process.poll() is not None:
            _log.error("process %d (pid %d) ended with %s", member, process.pid, process.returncode)
            quick = now - self._began[member] < _QUICK_SECONDS  # it will not do better at once
            pause = min(_LONGEST_PAUSE_SECONDS, max(0.5, 2 * self._pauses[member])) if quick else 0.0
            self._processes[member], self._pauses[member], self._due[member] = None, pause, now + pause
        if self._processes[member] is None and now >= self._due[member] and not self._stopping:
            handle = self._socket.fileno()
            self._processes[member] = subprocess.Popen(
                [*self._command, "--member", str(member), "--fd", str(handle)],
                pass_fds=[handle],
                env={**os.environ, lifetime.PARENT: str(os.getpid())},
            )
            self._began[member] = now

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.send_signal(number)


def own_command() -> list[str]:
    """How this very server was started."""
    return [sys.executable, "-m", "lepton_tasks.serving", *sys.argv[1:]]
