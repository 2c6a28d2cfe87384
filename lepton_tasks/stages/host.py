"""Stage host: `python -m lepton_tasks.stages.host FOLDER` forks stages from a process with warm imports.

A stage that starts by itself imports pandas, Great Expectations, torch or MLflow anew. The host imports them once and
never uses them, so that a fork of it can go on as if it had done so itself (docs/decisions/010). It imports libraries
only: a fork reads the project's own code, which is quick, and so never an old version of it.
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

# In the order in which a run needs them. Left out is what starts threads of its own: Polars, ONNX Runtime.
LIBRARIES = (
    *("pydantic", "yaml", "fsspec", "httpx", "psutil", "numpy", "pandas", "pyarrow.dataset", "pyarrow.parquet"),
    *("pyarrow.csv", "PIL.Image", "great_expectations", "dask.threaded", "distributed", "matplotlib.pyplot"),
    *("torch", "pytorch_lightning", "mlflow", "mlflow.onnx", "sklearn.metrics", "onnx", "onnxscript"),
)
# MLflow imports it if it can. A fork that needs it does so itself.
_HIDDEN = ("polars",)
# Variables that need not be as they are here: no library reads ours, and no stage Airflow's.
_FREE = ("LEPTON_", "AIRFLOW_")
_LOOK_SECONDS = 5.0
_LEAST_URGENT = 19


@dataclasses.dataclass(frozen=True)
class Request:
    """What a fork is to be: ``python -m <arguments>``. `streams` are its standard input, output and error."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    grace: float
    streams: list[int]

    def close(self) -> None:
        """Close our copies of the streams."""
        for stream in self.streams:
            os.close(stream)


@dataclasses.dataclass
class Child:
    """A fork, led by its caller's connection; `handle` is its pidfd, `deadline` when its group is killed."""

    pid: int
    handle: int
    connection: socket.socket
    grace: float
    deadline: float | None = None

    def send(self, number: int) -> None:
        """Signal the process, whose pid is its own until somebody waits for it."""
        os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """Signal all that share its session."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has not come to make its session
            self.send(number)


class Host:
    """Imports while idle, forks a process per request, and exits when the state folder is removed.

    It has one thread whenever it forks.

    Args:
        root: The state folder.
        libraries: Modules to import.
    """

    def __init__(self, root: Path, libraries: list[str]) -> None:
        self.environment = dict(os.environ)
        self._path = root / stage_host_client.SOCKET_FILE
        self._left = libraries[::-1]
        self._installed = _installed()
        self._children: dict[int, Child] = {}
        self._listener: socket.socket | None = _listen(root)
        self._inode = self._path.stat().st_ino
        self._selector = selectors.PollSelector()  # epoll's table would be the forks' too
        self._selector.register(self._listener, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Serve until the host has to end; in a fork, returns at once with what it is to be."""
        while self._listener or self._children:
            events = self._selector.select(self._patience())
            for key, _ in events:
                if key.data is None:
                    if (request := self._accept()) is not None:
                        return request
                elif key.data.pid in self._children:
                    self._ended(key.data) if key.fd == key.data.handle else self._told(key.data)
            self._kill_overdue()
            if not self._owns_socket():
                self._stop_listening()
            elif not events and self._left:
                _import(self._left.pop())
        return None

    def outdated(self) -> bool:
        """Whether a fork would run other code than a new process."""
        return _installed() != self._installed

    def leave(self) -> None:
        """Close what a fork shares with the host."""
        self._stop_listening()
        for child in self._children.values():
            child.connection.close()
            os.close(child.handle)

    def _patience(self) -> float:
        if self._left and self._listener:
            return 0.0
        now = time.monotonic()
        return min([_LOOK_SECONDS, *(max(0.0, c.deadline - now) for c in self._children.values() if c.deadline)])

    def _owns_socket(self) -> bool:
        """Whether callers still find us: the folder may be gone, or another host may have come."""
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino == self._inode
        return False

    def _stop_listening(self) -> None:
        if self._listener:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> Request | None:
        """Answer a caller; in the fork made for it, its request."""
        assert self._listener is not None
        connection, _ = self._listener.accept()
        if self.outdated():  # the caller finds the connection closed, as does every other while the host starts again
            connection.close()
            self._stop_listening()
            return None
        request = _received(connection)
        if request is None or not self._suits(request):
            connection.close()
        elif (pid := os.fork()) == 0:
            connection.close()
            return request
        else:
            self._watch(Child(pid, os.pidfd_open(pid), connection, request.grace))
        if request is not None:
            request.close()
        return None

    def _suits(self, request: Request) -> bool:
        """Whether a fork of this process is what the caller would start: libraries read their settings early."""
        theirs = request.environment
        names = sorted(name for name in self.environment.keys() | theirs.keys() if not name.startswith(_FREE))
        # As it was when we started, or as our imports have set it, which is what a fork of a fork sends.
        other = [name for name in names if theirs.get(name) not in (self.environment.get(name), os.environ.get(name))]
        if request.folder != str(Path.cwd()):
            other.append("the folder")
        if other:
            print(f"no fork for {request.arguments[:2]}: other than here: {other}", file=sys.stderr, flush=True)
        return not other

    def _watch(self, child: Child) -> None:
        self._children[child.pid] = child
        self._selector.register(child.handle, selectors.EVENT_READ, child)
        self._selector.register(child.connection, selectors.EVENT_READ, child)
        _reply(child.connection, child.pid)

    def _told(self, child: Child) -> None:
        """Pass on the signals that the caller asks for; end the child if it has gone."""
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

    def _ended(self, child: Child) -> None:
        if child.deadline is None:
            self._selector.unregister(child.connection)
        else:
            child.send_all(signal.SIGKILL)  # whom it has left behind
        _, status = os.waitpid(child.pid, 0)
        _reply(child.connection, os.waitstatus_to_exitcode(status))
        self._selector.unregister(child.handle)
        os.close(child.handle)
        child.connection.close()
        del self._children[child.pid]


def _listen(root: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    (root / stage_host_client.SOCKET_FILE).unlink(missing_ok=True)
    before = os.umask(0o177)  # for this user only, from its first moment on
    try:
        with stage_host_client.address(root) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    listener.listen()
    return listener


def _received(connection: socket.socket) -> Request | None:
    """The request and its streams, which are ours to close; None if the caller only looked, or is of another make."""
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
    with contextlib.suppress(OSError):  # the caller has gone, which the loop sees for itself
        connection.sendall(stage_host_client.NUMBER.pack(number))


def _installed() -> dict[str, int]:
    """When what a fork inherits was last changed: the interpreter, the installed packages, and our modules here."""
    ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("lepton_tasks")]
    paths = [sys.executable, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), __file__, *ours]
    return {path: Path(path).stat().st_mtime_ns for path in paths if path and Path(path).exists()}


def _import(name: str) -> None:
    """Import a module when nothing else needs the processor.

    In a thread, because an ordinary user can lower a thread's priority, but never raise it again.
    """

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, _LEAST_URGENT)
        importlib.import_module(name)  # if it fails, the thread says so, and forks do without

    sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]  # None: not to be imported
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for hidden in _HIDDEN:
        del sys.modules[hidden]
    gc.freeze()  # a collection in a fork would copy the pages that all share


def _become(request: Request, host: Host, parent: int) -> None:
    """Turn a fork into a process like the one that the caller would have started."""
    os.setsid()
    lifetime.die_with(parent)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
    request.close()
    host.leave()
    imported = {name: value for name, value in os.environ.items() if name not in host.environment}
    os.environ.clear()
    os.environ.update(imported | request.environment | {lifetime.PARENT: str(parent)})
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise every fork draws the same numbers
    Path("/proc/self/comm").write_text(" ".join(request.arguments[:2]).removeprefix("lepton_tasks."))
    gc.enable()


def _run(arguments: list[str]) -> NoReturn:
    """Run ``python -m <arguments>`` to its end.

    The end is the interpreter's own without the taking apart of thousands of modules, which costs 0.7 s.
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
    except BaseException:  # noqa: BLE001 - as the interpreter does with what nobody caught
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status & 0xFF)


def main() -> int:
    """Serve the state folder named first, with the modules named after it, or `LIBRARIES`."""
    root, *libraries = sys.argv[1:]
    gc.disable()  # imports leave nothing to collect, and the collector would look for it all the while
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
