"""Processes of one server: they share a port and a folder, and switch versions together.

Each listens on a socket in the folder. Whichever is asked for a change makes it: it alone holds the folder's lock, has
every other process load and warm up the new version, writes the new state to disk, and only then tells all to swap. A
process that ends meanwhile reads that state when it is back.
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
_PATIENCE_SECONDS = 120.0  # a large package is read and warmed up
_ANSWER_SECONDS = 5.0  # of one that has nothing to load; one that hangs must not make the others hang

_log = logging.getLogger("lepton.serving.fleet")

Answer = Callable[["Line", dict[str, Any]], Awaitable[None]]


class Line:
    """A connection on which JSON objects go back and forth."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, value: dict[str, Any]) -> None:
        """Say something."""
        self._writer.write(json.dumps(value).encode() + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """What the other says; None once it is gone."""
        try:
            text = await self._reader.readline()
        except (OSError, ValueError):
            return None
        value: dict[str, Any] | None = json.loads(text) if text.endswith(b"\n") else None
        return value

    async def ask(self, value: dict[str, Any], *, seconds: float = _ANSWER_SECONDS) -> dict[str, Any] | None:
        """What the other replies; None once it is gone.

        Raises:
            TimeoutError: it says nothing for so long.
        """
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError):
                await self.send(value)
                return await self.receive()
        return None

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


class Fleet:
    """This process among those of its server.

    Args:
        home: State folder of the server.
        member: Number of this process, from 0.
        size: How many there are.

    Attributes:
        member: Number of this process.
        size: How many there are.
        metrics: Gives its metrics as text, when another process is asked for all.
    """

    def __init__(self, home: Path, member: int, size: int) -> None:
        self.member, self.size = member, size
        self._folder, self._lock_path = home / _FOLDER, home / _LOCK_FILE
        self._others = [i for i in range(size) if i != member]
        self.metrics: Callable[[], str] = lambda: ""
        self._server: asyncio.AbstractServer | None = None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        # A socket's path has at most 107 characters; this one is short wherever the folder lies.
        self._handle = os.open(self._folder, os.O_DIRECTORY | os.O_RDONLY)
        self._lead = os.open(self._folder / "lead.lock", os.O_RDWR | os.O_CREAT, 0o600)

    @contextlib.asynccontextmanager
    async def alone(self, *, shared: bool = False) -> AsyncIterator[None]:
        """No other process changes what is served; with `shared`, others may read, too."""
        handle = await asyncio.to_thread(os.open, self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:  # closing gives the lock back
            await asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def leads(self) -> bool:
        """Whether this process decides where one must; another does once this one has ended."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lead, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    async def listen(self, answer: Answer) -> None:
        """From now on, `answer` is called with every connection and the first thing said on it."""
        path = self._path(self.member)
        path.unlink(missing_ok=True)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = Line(reader, writer)
            try:
                message = await line.receive()
                if message is not None and message["op"] == "metrics":
                    await line.send({"member": self.member, "text": self.metrics()})
                elif message is not None:
                    await answer(line, message)
            except OSError as error:
                _log.warning("another process of this server is gone: %s", error)
            finally:
                line.close()

        self._server = await asyncio.start_unix_server(serve, path, limit=_LINE_BYTES)

    async def ask(self, *, seconds: float = _ANSWER_SECONDS, **message: Any) -> list[dict[str, Any]]:
        """What the other processes say to this; those that are not there, or hang, say nothing."""
        async with self._lines() as lines:
            asked = (line.ask(message, seconds=seconds) for line in lines)
            replies = await asyncio.gather(*asked, return_exceptions=True)
        return [reply for reply in replies if isinstance(reply, dict)]

    @contextlib.asynccontextmanager
    async def together(self, **message: Any) -> AsyncIterator[None]:
        """All others have prepared what the message says; they do it when the block ends, or leave it if it raises.

        Raises:
            ArtifactError: one of them cannot; none does it.
            UnavailableError: one of them hangs; none does it.
        """
        async with self._lines() as lines:
            try:
                replies = await asyncio.gather(*(line.ask(message, seconds=_PATIENCE_SECONDS) for line in lines))
            except TimeoutError as error:
                raise UnavailableError("another process of this server does not answer.") from error
            failed = next((reply["error"] for reply in replies if reply and "error" in reply), None)
            if failed is not None:
                raise ArtifactError(f"another process of this server cannot serve it: {failed}")
            yield
            there = [line for line, reply in zip(lines, replies, strict=True) if reply is not None]
            # It is decided: one that ends or hangs now reads the new state from the disk, once it can.
            await asyncio.gather(
                *(line.ask({"do": True}, seconds=_ANSWER_SECONDS) for line in there), return_exceptions=True
            )

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._path(self.member).unlink(missing_ok=True)
        os.close(self._handle)
        os.close(self._lead)

    @contextlib.asynccontextmanager
    async def _lines(self) -> AsyncIterator[Sequence[Line]]:
        lines: list[Line] = []
        try:
            for member in self._others:
                with contextlib.suppress(OSError):
                    lines.append(Line(*await asyncio.open_unix_connection(self._path(member), limit=_LINE_BYTES)))
            yield lines
        finally:
            for line in lines:
                line.close()

    def _path(self, member: int) -> Path:
        return Path(f"/proc/self/fd/{self._handle}/{member}.sock")
