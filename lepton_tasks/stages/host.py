"""Stage host: `python -m lepton_tasks.stages.host FOLDER` forks stages from a process with warm imports.

A stage in a new process must import pandas, Great Expectations, torch or MLflow. The host imports them once and never
uses them, so its forks behave like new processes (docs/decisions/010). It imports third-party libraries only: forks
import the project's own code themselves, which is quick, so they never run an old version.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from lepton_tasks.core import lifetime, stage_host_client

# In the order in which a run needs them. Excluded are libraries that start threads: Polars, ONNX Runtime.
LIBRARIES = (
    *("pydantic", "yaml", "fsspec", "httpx", "psutil", "numpy", "pandas", "pyarrow.dataset", "pyarrow.parquet"),
    *("pyarrow.csv", "PIL.Image", "great_expectations", "dask.threaded", "distributed", "matplotlib.pyplot"),
    *("torch", "pytorch_lightning", "mlflow", "mlflow.onnx", "sklearn.metrics", "onnx", "onnxscript"),
)
# MLflow imports it if available. Forks that need it import it themselves.
_BLOCKED = ("polars",)
# Prefixes of variables that may differ: no library reads Lepton's, and no stage reads Airflow's.
_IGNORED_VARIABLES = ("LEPTON_", "AIRFLOW_")
_POLL_SECONDS = 5.0
_LOWEST_PRIORITY = 19


@dataclasses.dataclass(frozen=True)
class Request:
    """Request to run ``python -m <arguments>``. `streams` are its standard input, output and error."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    grace: float
    streams: list[int]

    def close(self) -> None:
        """Close this process's copies of the streams."""
        for stream in self.streams:
            os.close(stream)


@dataclasses.dataclass
class Child:
    """A forked stage and its caller's connection; `handle` is its pidfd, at `deadline` its group is killed."""

    pid: int
    handle: int
    connection: socket.socket
    grace: float
    deadline: float | None = None

    def send(self, number: int) -> None:
        """Signal the process; its pid cannot be reused before it is reaped."""
        os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """Signal its process group."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has not called setsid yet
            self.send(number)


class Host:
    """Imports while idle, forks a process per request, and exits when the state folder is removed.

    It is single-threaded whenever it forks.

    Args:
        root: The state folder.
        libraries: Modules to import.
    """

    def __init__(self, root: Path, libraries: list[str]) -> None:
        self.environment = dict(os.environ)
        self._path = root / stage_host_client.SOCKET_FILE
        self._pending = libraries[::-1]
        self._installed = _installed()
        self._children: dict[int, Child] = {}
        self._listener: socket.socket | None = _listen(root)
        self._inode = self._path.stat().st_ino
        self._selector = selectors.PollSelector()  # forks would share an epoll instance
        self._selector.register(self._listener, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Serve until the host has to end; in a fork, return its request at once."""
        while self._listener or self._children:
            events = self._selector.select(self._timeout())
            for key, _ in events:
                if key.data is None:
                    if (request := self._accept()) is not None:
                        return request
                elif key.data.pid in self._children:
                    self._reap(key.data) if key.fd == key.data.handle else self._forward_signals(key.data)
            self._kill_overdue()
            if not self._owns_socket():
                self._stop_listening()
            elif not events and self._pending:
                _import(self._pending.pop())
        return None

    def outdated(self) -> bool:
        """Whether a fork would run different code than a new process."""
        return _installed() != self._installed

    def close_inherited(self) -> None:
        """Close the host's sockets and handles in a fork."""
        self._stop_listening()
        for child in self._children.values():
            child.connection.close()
            os.close(child.handle)

    def _timeout(self) -> float:
        if self._pending and self._listener:
            return 0.0
        now = time.monotonic()
        return min([_POLL_SECONDS, *(max(0.0, c.deadline - now) for c in self._children.values() if c.deadline)])

    def _owns_socket(self) -> bool:
        """Whether callers still reach this host: the folder may be gone, or another host may have replaced it."""
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino == self._inode
        return False

    def _stop_listening(self) -> None:
        if self._listener:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> Request | None:
        """Accept one connection and fork for its request; returns the request in the fork, None in the host."""
        assert self._listener is not None
        connection, _ = self._listener.accept()
        if self.outdated():  # callers find the connection closed while the host restarts
            connection.close()
            self._stop_listening()
            return None
        request = _receive(connection)
        if request is None or not self._matches(request):
            connection.close()
        elif (pid := os.fork()) == 0:
            connection.close()
            return request
        else:
            self._add(Child(pid, os.pidfd_open(pid), connection, request.grace))
        if request is not None:
            request.close()
        return None

    def _matches(self, request: Request) -> bool:
        """Whether folder and variables are the caller's: libraries read them on import."""
        requested = request.environment
        names = sorted(
            name for name in self.environment.keys() | requested.keys() if not name.startswith(_IGNORED_VARIABLES)
        )
        # Values at the host's start, or as set by imports, which a fork of a fork sends.
        own = self.environment
        different = [name for name in names if requested.get(name) not in (own.get(name), os.environ.get(name))]
        if request.folder != str(Path.cwd()):
            different.append("the folder")
        if different:
            print(
                f"no fork for {request.arguments[:2]}: the caller has different {different}",
                file=sys.stderr,
                flush=True,
            )
        return not different

    def _add(self, child: Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.handle, selectors.EVENT_READ, child)
        self._selector.register(child.connection, selectors.EVENT_READ, child)
        _reply(child.connection, child.pid)

    def _forward_signals(self, child: Child) -> None:
        """Forward the caller's signals to the child; end the child if the caller has disconnected."""
        try:
            numbers = child.connection.recv(64)
        except ConnectionError:
            numbers = b""
        for number in numbers:
            child.send(number)
        if not numbers:
            self._selector.unregister(child.connection)
            child.deadline = time.monotonic() + child.grace
            child.send_all(signal.SIGTERM)

    def _kill_overdue(self) -> None:
        for child in self._children.values():
            if child.deadline is not None and child.deadline <= time.monotonic():
                child.send_all(signal.SIGKILL)

    def _reap(self, child: Child) -> None:
        if child.deadline is None:
            self._selector.unregister(child.connection)
        else:
            child.send_all(signal.SIGKILL)  # its remaining descendants
        _, status = os.waitpid(child.pid, 0)
        _reply(child.connection, os.waitstatus_to_exitcode(status))
        self._selector.unregister(child.handle)
        os.close(child.handle)
        child.connection.close()
        del self._children[child.pid]


def _listen(root: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    (root / stage_host_client.SOCKET_FILE).unlink(missing_ok=True)
    before = os.umask(0o177)  # accessible to this user only, from its creation
    try:
        with stage_host_client.address(root) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _receive(connection: socket.socket) -> Request | None:
    """Receive a request and its streams, to be closed by this process; None if it is empty or invalid."""
    connection.settimeout(1.0)
    try:
        _, files, _, _ = socket.recv_fds(connection, 1, 4)
    except OSError:
        return None
    try:
        with os.fdopen(files[0], closefd=False) as stream:
            return Request(**json.load(stream), streams=[os.dup(file) for file in files[1:]])
    except (IndexError, TypeError, ValueError):
        return None
    finally:
        for file in files:
            os.close(file)


def _reply(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # disconnected callers are handled by the loop
        connection.sendall(stage_host_client.NUMBER.pack(number))


def _installed() -> dict[str, int]:
    """Modification times of everything forks inherit: interpreter, installed packages, Lepton's loaded modules."""
    own_modules = [module.__file__ for name, module in sys.modules.items() if name.startswith("lepton_tasks")]
    paths = [sys.executable, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), __file__, *own_modules]
    return {path: Path(path).stat().st_mtime_ns for path in paths if path and Path(path).exists()}


def _import(name: str) -> None:
    """Import a module at the lowest priority.

    In a thread, because an unprivileged process can lower a priority but never raise it again.
    """

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
        importlib.import_module(name)  # a failure is printed by the thread; forks run without it

    sys.modules.update(dict.fromkeys(_BLOCKED))  # type: ignore[arg-type]  # None blocks the import
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for blocked in _BLOCKED:
        del sys.modules[blocked]
    gc.freeze()  # a collection in a fork would copy the shared pages


def _become(request: Request, host: Host, parent: int) -> None:
    """Turn a fork into the process that the caller would have started."""
    os.setsid()
    lifetime.die_with(parent)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
    request.close()
    host.close_inherited()
    imported = {name: value for name, value in os.environ.items() if name not in host.environment}
    os.environ.clear()
    os.environ.update(imported | request.environment | {lifetime.PARENT: str(parent)})
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise all forks draw the same numbers
    Path("/proc/self/comm").write_text(" ".join(request.arguments[:2]).removeprefix("lepton_tasks."))
    gc.enable()


def _run(arguments: list[str]) -> NoReturn:
    """Run ``python -m <arguments>``, then exit.

    The exit skips the interpreter's clean-up of thousands of modules, which costs 0.7 s.
    """
    status = 1
    try:
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does with uncaught exceptions
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


def main() -> int:
    """Serve the state folder of the first argument; further arguments replace `LIBRARIES`."""
    root, *libraries = sys.argv[1:]
    gc.disable()  # imports leave no garbage, but would trigger collections
    host, pid = Host(Path(root), libraries or list(LIBRARIES)), os.getpid()
    request = host.serve()
    if request is not None:
        _become(request, host, pid)
        _run(request.arguments)
    if host.outdated() and Path(root).exists():
        os.execve(sys.executable, sys.orig_argv, host.environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
