"""Client of the stage host: fork a process that has already imported the heavy libraries.

The host is `lepton_tasks.stages.host`, started by `lepton up`. Without one, callers start an ordinary process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SOCKET_FILE = "run/stages.sock"
"""The host's socket in the state folder."""

NUMBER = struct.Struct("!i")
"""The host's replies: the pid, then `subprocess.Popen.returncode`. It rejects a request by closing the connection."""

# A fork takes 0.05 s. A host that is still importing may take longer than starting a new process.
_TIMEOUT_SECONDS = 2.0


class HostedProcess:
    """A process forked by the host, with the interface of `subprocess.Popen`.

    It ends when the connection is closed, so never later than the requesting process.
    """

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        """The exit status, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait at most `timeout` seconds for the exit status; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._connection, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(["hosted process", str(self.pid)], timeout or 0.0)
            reply = _received(self._connection)
            self._connection.close()
            if self.returncode is None:  # a signal handler may have waited meanwhile
                # Without a host there is no status: the kernel ended the process when the host ended.
                self.returncode = -signal.SIGTERM if reply is None else reply
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless it has ended."""
        with contextlib.suppress(OSError):  # it has ended, and so has the connection
            self._connection.sendall(bytes([number]))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str], *, environment: Mapping[str, str], grace: float, output: int | None = None
) -> HostedProcess | None:
    """Run a command in a process forked by the host, in its own session.

    Args:
        command: ``[sys.executable, "-m", MODULE, ...]``.
        environment: All its variables; ``LEPTON_HOME`` selects the host.
        grace: Seconds from SIGTERM to SIGKILL for its process group if the caller ends first.
        output: File descriptor for its standard output and error; the caller's by default.

    Returns:
        The process, or None if no host answers or the host does not match (interpreter, folder, environment).
    """
    from lepton_tasks.core.environment import state_root  # not imported by the host: its forks must read it afresh

    if list(command[:2]) != [sys.executable, "-m"]:
        return None
    request = {"arguments": command[2:], "folder": str(Path.cwd()), "environment": dict(environment), "grace": grace}
    try:
        connection = connect(state_root(environment))
    except OSError:
        return None
    pid = None
    with contextlib.suppress(OSError):
        with _file(json.dumps(request)) as file, Path(os.devnull).open() as nothing:
            streams = (1, 2) if output is None else (output, output)
            socket.send_fds(connection, [b"\0"], [file, nothing.fileno(), *streams])
        connection.settimeout(_TIMEOUT_SECONDS)
        pid = _received(connection)
        connection.settimeout(None)
    if pid is None:
        connection.close()
        return None
    return HostedProcess(connection, pid)


def connect(root: Path) -> socket.socket:
    """Connect to the host of a state folder; raises `OSError` if there is none."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        with address(root) as path:
            connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def address(root: Path) -> Iterator[str]:
    """A short path of the socket, whatever the depth of the state folder: the kernel's limit is 107 bytes."""
    path = root / SOCKET_FILE
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextlib.contextmanager
def _file(text: str) -> Iterator[int]:
    """An anonymous in-memory file: a socket message could be split, and is too short for an environment."""
    file = os.memfd_create("request")
    try:
        with open(file, "w", closefd=False) as stream:
            stream.write(text)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _received(connection: socket.socket) -> int | None:
    try:
        reply = connection.recv(NUMBER.size)
    except OSError:
        return None
    return NUMBER.unpack(reply)[0] if len(reply) == NUMBER.size else None
