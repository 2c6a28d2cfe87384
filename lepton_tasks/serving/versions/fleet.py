"""Processes of one server: they share a port and a folder, and switch versions together.

Each process listens on a Unix socket in the folder. The process that receives a change locks the folder, lets all
others load and warm up the new version, writes the new state to disk, and then lets all swap (two-phase commit). A
process that exits meanwhile reads that state when it restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ArtifactError, UnavailableError

_FOLDER, _LOCK_FILE = "processes", "models.lock"
_LINE_BYTES = 64 * 2**20
_PREPARE_TIMEOUT = 120.0  # seconds; a large package is read and warmed up
_REPLY_TIMEOUT = 5.0  # seconds, without loading; a hanging process must not block the others

_log = logging.getLogger("lepton.serving.fleet")

MessageHandler = Callable[["Channel", dict[str, Any]], Awaitable[None]]


class Channel:
    """A connection that exchanges JSON objects, one per line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, value: dict[str, Any]) -> None:
        """Send a message."""
        self._writer.write(json.dumps(value).encode() + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None if the connection is closed."""
        try:
            text = await self._reader.readline()
        except (OSError, ValueError):
            return None
        value: dict[str, Any] | None = json.loads(text) if text.endswith(b"\n") else None
        return value

    async def request(self, value: dict[str, Any], *, seconds: float = _REPLY_TIMEOUT) -> dict[str, Any] | None:
        """Send a message and return the reply; None if the connection is closed.

        Raises:
            TimeoutError: there is no reply in time.
        """
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                await self.send(value)
                return await self.receive()
        return None

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class Fleet:
    """This process as a member of its server's processes.

    Args:
        home: State folder of the server.
        member: Number of this process, from 0.
        size: Number of processes.

    Attributes:
        member: Number of this process.
        size: Number of processes.
        metrics: Returns the metrics of this process as text, for other members.
    """

    def __init__(self, home: Path, member: int, size: int) -> None:
        self.member, self.size = member, size
        self._folder, self._lock_path = home / _FOLDER, home / _LOCK_FILE
        self._others = [i for i in range(size) if i != member]
        self.metrics: Callable[[], str] = lambda: ""
        self._server: asyncio.AbstractServer | None = None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # Socket paths are limited to 107 characters; a path through the folder's descriptor is always short.
        self._handle = os.open(self._folder, os.O_DIRECTORY | os.O_RDONLY)
        self._leader_lock = os.open(self._folder / "lead.lock", os.O_RDWR | os.O_CREAT, 0o600)

    @contextlib.asynccontextmanager
    async def lock(self, *, shared: bool = False) -> AsyncIterator[None]:
        """Lock the served versions against changes by other processes; with `shared`, for reading."""
        handle = await asyncio.to_thread(os.open, self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:  # closing releases the lock
            await asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def is_leader(self) -> bool:
        """Whether this process is the leader; another one takes over when it exits."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._leader_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    async def listen(self, handle: MessageHandler) -> None:
        """From now on, `handle` is called with every connection and the first thing said on it."""
        path = self._path(self.member)
        path.unlink(missing_ok=True)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            channel = Channel(reader, writer)
            try:
                message = await channel.receive()
                if message is not None and message["op"] == "metrics":
                    await channel.send({"member": self.member, "text": self.metrics()})
                elif message is not None:
                    await handle(channel, message)
            except OSError as error:
                _log.warning("connection to another process of this server failed: %s", error)
            finally:
                channel.close()

        self._server = await asyncio.start_unix_server(serve, path, limit=_LINE_BYTES)

    async def broadcast(self, *, seconds: float = _REPLY_TIMEOUT, **message: Any) -> list[dict[str, Any]]:
        """Send a message to all other processes; returns the replies of those that respond."""
        async with self._connect() as channels:
            requests = (channel.request(message, seconds=seconds) for channel in channels)
            replies = await asyncio.gather(*requests, return_exceptions=True)
        return [reply for reply in replies if isinstance(reply, dict)]

    @contextlib.asynccontextmanager
    async def prepare(self, **message: Any) -> AsyncIterator[None]:
        """Let all other processes prepare a change; they commit when the block ends, and abort if it raises.

        Raises:
            ArtifactError: one of them cannot prepare it; none commits.
            UnavailableError: one of them hangs; none commits.
        """
        async with self._connect() as channels:
            try:
                replies = await asyncio.gather(
                    *(channel.request(message, seconds=_PREPARE_TIMEOUT) for channel in channels)
                )
            except TimeoutError as error:
                raise UnavailableError("another process of this server does not answer.") from error
            failed = next((reply["error"] for reply in replies if reply and "error" in reply), None)
            if failed is not None:
                raise ArtifactError(f"another process of this server cannot serve it: {failed}")
            yield
            prepared = [channel for channel, reply in zip(channels, replies, strict=True) if reply is not None]
            # Committed: a process that exits or hangs now reads the new state from disk later.
            await asyncio.gather(
                *(channel.request({"do": True}, seconds=_REPLY_TIMEOUT) for channel in prepared), return_exceptions=True
            )

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path(self.member).unlink(missing_ok=True)
        os.close(self._handle)
        os.close(self._leader_lock)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Sequence[Channel]]:
        channels: list[Channel] = []
        try:
            for member in self._others:
                with contextlib.suppress(OSError):
                    channels.append(Channel(*await asyncio.open_unix_connection(self._path(member), limit=_LINE_BYTES)))
            yield channels
        finally:
            for channel in channels:
                channel.close()

    def _path(self, member: int) -> Path:
        return Path(f"/proc/self/fd/{self._handle}/{member}.sock")
