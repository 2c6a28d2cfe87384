"""Supervise several server processes on one port."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from types import FrameType

from lepton_tasks.core.errors import ConfigError

_QUICK_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("lepton.serving.supervisor")


class Supervisor:
    """Starts the processes, restarts those that exit, and stops them with itself.

    They are forked, and so share the memory of all that is imported here, and start in a moment. Nothing here may have
    threads of its own, or an event loop. Each listens on a socket of its own, once it is ready, and the kernel deals
    connections out: from one socket for all, one process took up to all of 64 at times.

    Args:
        serve: What each does, given its number and its bound socket; returns its exit status. It begins with `SIGTERM`
            and `SIGINT` blocked.
        size: How many.
        address: Host and port to listen on.
        grace: Seconds that they get to answer what they have accepted.
    """

    def __init__(
        self, serve: Callable[[int, socket.socket], int], size: int, address: tuple[str, int], *, grace: float
    ) -> None:
        self._serve, self._grace = serve, grace
        with bound(address):  # nobody else listens there, who could share the port with us
            pass
        self._held = bound(address, shared=True)
        self._address = self._held.getsockname()[:2]
        self._processes: list[ForkProcess | None] = [None] * size
        self._due = [0.0] * size
        self._pauses = [0.0] * size
        self._began = [0.0] * size
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT; returns 0."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        gc.collect()
        gc.freeze()  # a collection would write to, and so copy, what the processes share
        while not self._stopping:
            for member in range(len(self._processes)):
                self._keep(member)
            time.sleep(0.05)
        running = [process for process in self._processes if process is not None]
        deadline = time.monotonic() + self._grace
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in running:
            process.kill()
            process.join()
        self._held.close()
        return 0

    def _keep(self, member: int) -> None:
        process, now = self._processes[member], time.monotonic()
        if process is not None and not process.is_alive():
            _log.error("process %d (pid %s) ended with %s", member, process.pid, process.exitcode)
            quick = now - self._began[member] < _QUICK_SECONDS  # it will not do better at once
            pause = min(_LONGEST_PAUSE_SECONDS, max(0.5, 2 * self._pauses[member])) if quick else 0.0
            self._processes[member], self._pauses[member], self._due[member] = None, pause, now + pause
        if self._processes[member] is None and now >= self._due[member] and not self._stopping:
            self._began[member] = now
            self._processes[member] = self._start(member)

    def _start(self, member: int) -> ForkProcess:
        process = multiprocessing.get_context("fork").Process(target=self._child, args=(member,))
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has handlers of its own
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return process

    def _child(self, member: int) -> None:
        raise SystemExit(self._serve(member, bound(self._address, shared=True)))

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for process in self._processes:
            if process is not None and process.is_alive():
                process.terminate()


def bound(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A socket that does not listen yet; with others of this server on the same port if it is `shared`.

    Raises:
        ConfigError: somebody else listens there, or nobody may.
    """
    made = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        what = f"cannot listen on {address[0]}:{address[1]}: {error.strerror}."
        raise ConfigError(what, where="--port", fix="Choose another, or stop the process that uses it.") from error
    return made
