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

_QUICK_EXIT_SECONDS, _MAX_BACKOFF_SECONDS = 5.0, 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("lepton.serving.supervisor")


class Supervisor:
    """Starts the processes, restarts those that exit, and stops them with itself.

    Processes are forked, so that they start quickly and share the memory of imported modules; the parent must therefore
    have no threads and no event loop. Each process listens on its own socket (SO_REUSEPORT) and the kernel distributes
    connections; with one shared socket, a single process sometimes accepted all of 64 connections.

    Args:
        serve: Body of a process, given its number and bound socket; returns its exit status. `SIGTERM` and `SIGINT` are
            blocked when it starts.
        size: Number of processes.
        address: Host and port to listen on.
        grace: Seconds to finish accepted requests at shutdown.
    """

    def __init__(
        self, serve: Callable[[int, socket.socket], int], size: int, address: tuple[str, int], *, grace: float
    ) -> None:
        self._serve, self._grace = serve, grace
        with bind_socket(address):  # fails if another program listens there, which SO_REUSEPORT would not
            pass
        self._reserved = bind_socket(address, shared=True)
        self._address = self._reserved.getsockname()[:2]
        self._processes: list[ForkProcess | None] = [None] * size
        self._restart_at = [0.0] * size
        self._backoff = [0.0] * size
        self._started_at = [0.0] * size
        self._stopping = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns 0."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        gc.collect()
        gc.freeze()  # a collection would write to the shared memory and so copy it
        while not self._stopping:
            for member in range(len(self._processes)):
                self._ensure_running(member)
            time.sleep(0.05)
        running = [process for process in self._processes if process is not None]
        deadline = time.monotonic() + self._grace
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in running:
            process.kill()
            process.join()
        self._reserved.close()
        return 0

    def _ensure_running(self, member: int) -> None:
        process, now = self._processes[member], time.monotonic()
        if process is not None and not process.is_alive():
            _log.error("process %d (pid %s) ended with %s", member, process.pid, process.exitcode)
            quick = now - self._started_at[member] < _QUICK_EXIT_SECONDS
            pause = min(_MAX_BACKOFF_SECONDS, max(0.5, 2 * self._backoff[member])) if quick else 0.0
            self._processes[member], self._backoff[member], self._restart_at[member] = None, pause, now + pause
        if self._processes[member] is None and now >= self._restart_at[member] and not self._stopping:
            self._started_at[member] = now
            self._processes[member] = self._start(member)

    def _start(self, member: int) -> ForkProcess:
        process = multiprocessing.get_context("fork").Process(target=self._child, args=(member,))
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has its own handlers
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return process

    def _child(self, member: int) -> None:
        raise SystemExit(self._serve(member, bind_socket(self._address, shared=True)))

    def _stop(self, _: int, __: FrameType | None) -> None:
        self._stopping = True
        for process in self._processes:
            if process is not None and process.is_alive():
                process.terminate()


def bind_socket(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet; `shared` sets SO_REUSEPORT.

    Raises:
        ConfigError: the address is in use or not permitted.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        what = f"cannot listen on {address[0]}:{address[1]}: {error.strerror}."
        raise ConfigError(what, where="--port", fix="Choose another, or stop the process that uses it.") from error
    return bound
