"""Request log for the monitors: JSON lines, then Parquet. Never blocks a request."""

from __future__ import annotations

import collections
import fcntl
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import orjson

from lepton_tasks.serving.observing.redact import ANSWER as ANSWER
from lepton_tasks.serving.observing.redact import REDACTED as REDACTED
from lepton_tasks.serving.observing.redact import Redaction
from lepton_tasks.serving.observing.segments import LIVE, prune, read_segments, seal, unsealed
from lepton_tasks.serving.observing.segments import REST as REST

REQUESTS_FOLDER = "requests"  # in the server's state folder
OUTCOMES = "outcomes"  # in a model's folder
OWN_FILE = re.compile(rf"({OUTCOMES}/)?[0-9]+-[0-9]+\.(jsonl|parquet)")  # there, of the server that writes it
_SEALING = ".sealing"  # locked by who seals
_THINNED = 10
_RETRY_SECONDS = 60.0  # after which what could not be sealed is tried again

_log = logging.getLogger("lepton.serving.request_log")


class RequestLog:
    """Writes records in the background, into ``folder/<model>/<time in ns>-<member>.jsonl``.

    A new file is begun at every start and whenever one is full or old, so a line torn by a crash is never continued.
    The one before is sealed: a process that gives way to all others writes it anew as Parquet. Outcomes that somebody
    tells of later lie beside, in ``folder/<model>/outcomes/``.

    Args:
        folder: Where the files lie.
        every: Seconds between two writes; a crash loses at most this much.
        capacity: Records that may wait; beyond it new ones are dropped and counted in `dropped`.
        file_bytes: Size at which the next file is begun.
        file_seconds: Age at which the next file is begun.
        most_bytes: Of a model's files together; the oldest goes first.
        most_files: Of a model.
        member: Which of a server's processes it is; each has files of its own.
        members: How many of them there are.
        values: Whether the ``values`` of samples are kept. They are left out, too, while a tenth of `capacity` waits.
        sample: Share of the records that are kept, at random. It is a tenth of that while half of `capacity` waits.
        redaction: What may be written of a record, and the share of each model.

    Attributes:
        dropped: Records there was no room for.
        skipped: Records that were left out by `sample`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: float = 0.5,
        capacity: int = 100_000,
        file_bytes: int = 8 * 2**20,
        file_seconds: float = 3600.0,
        most_bytes: int = 512 * 2**20,
        most_files: int = 1000,
        values: bool = True,
        member: int = 0,
        members: int = 1,
        sample: float = 1.0,
        redaction: Redaction | None = None,
    ) -> None:
        self.dropped = self.skipped = 0
        self._sample, self._redaction = sample, redaction
        self._folder, self._every, self._capacity = folder, every, capacity
        self._member, self._members, self._values = member, members, values
        self._file_bytes, self._file_seconds = file_bytes, file_seconds
        self._most_bytes, self._most_files = most_bytes, most_files
        self._hidden: collections.deque[tuple[str, dict[str, Any]]] = collections.deque()  # to be redacted yet
        self._lines: dict[str, bytearray] = {}  # by place, as they will stand in the files
        self._count = 0  # of the lines
        self._lock = threading.Lock()
        self._streams: dict[str, FileIO] = {}
        self._begun: dict[str, float] = {}
        self._full: list[Path] = []  # to be sealed
        self._sealing: tuple[subprocess.Popen[bytes], list[Path]] | None = None
        self._seal_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, model: str, record: dict[str, Any]) -> None:
        """Hand a record over; returns at once."""
        waiting = self._count + len(self._hidden)
        if waiting >= self._capacity:
            self.dropped += 1
            return
        share = self._sample if self._redaction is None else self._sample * self._redaction.share(model)
        if waiting >= self._capacity // 2:
            share /= _THINNED
        if share < 1 and random.random() >= share:
            self.skipped += 1
            return
        if not self._values or waiting >= self._capacity // 10:  # a line without them is short
            record.pop("values", None)
        if self._redaction is not None and self._redaction.hides(model):
            self._hidden.append((model, record))
        else:  # in half a microsecond: the thread would have to take the interpreter from requests
            self._put(model, record)

    def add_outcome(self, model: str, record: dict[str, Any]) -> bool:
        """Hand over what turned out to be right; returns at once, with whether there was room for it."""
        if self._count + len(self._hidden) >= self._capacity:
            self.dropped += 1
            return False
        self._hidden.append((f"{model}/{OUTCOMES}", record))
        return True

    def _put(self, place: str, record: dict[str, Any]) -> None:
        """Have a record written as it is now; one that is no JSON is dropped: who asked is answered all the same."""
        try:
            line = _line(record)
        except TypeError:  # e.g. half a character, or a whole number above 64 bits
            self.dropped += 1
            _log.exception("a record of %s cannot be written", place)
            return
        with self._lock:
            text = self._lines.get(place)
            if text is None:
                text = self._lines[place] = bytearray()
            text += line
            self._count += 1

    def close(self) -> None:
        """Write what waits, seal it, and end the thread."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        self._full = unsealed(self._folder, self._member, self._members)
        closing = False
        while not closing:
            closing = self._closing.wait(self._every)
            try:
                self._write()
                self._turn_over()
            except Exception:  # noqa: BLE001  # whatever it is, what comes later is to be written
                _log.exception("the request log continues after an error")
        if lost := self._count + len(self._hidden):
            _log.error("%d records could not be written and are lost", lost)
        self._seal_all()

    def _turn_over(self) -> None:
        """End files that are old, and have what is full sealed, in one process of the server at a time."""
        now = time.monotonic()
        for place, stream in list(self._streams.items()):
            if stream.closed or now - self._begun[place] >= self._file_seconds:
                self._end(place)
        if self._sealing is not None:
            process, files = self._sealing
            if process.poll() is None:
                return
            self._sealing = None
            if process.returncode:  # it has said why
                self._full, self._seal_at = [*files, *self._full], now + _RETRY_SECONDS
        self._full = [path for path in self._full if path.exists()]
        if self._full and now >= self._seal_at:
            try:
                if (sealer := self._sealer()) is not None:
                    self._sealing, self._full = (sealer, self._full), []
            except OSError as error:
                _log.error("%d files of the request log wait to be sealed: %s", len(self._full), error)
                self._seal_at = now + _RETRY_SECONDS

    def _sealer(self) -> subprocess.Popen[bytes] | None:
        """A process that seals what is full; None while one of another process of the server does: each takes 90 MB."""
        handle = os.open(self._folder / _SEALING, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child has it, too, and until it ends
            command = [sys.executable, "-m", "lepton_tasks.serving.observing.segments", *map(str, self._full)]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[handle])
        except BlockingIOError:
            return None
        finally:
            os.close(handle)

    def _seal_all(self) -> None:
        """Nobody is answered any more: seal what is left, here and now. What fails is sealed at the next start."""
        for place in list(self._streams):
            self._end(place)
        if self._sealing is not None:
            process, files = self._sealing
            process.kill()
            process.wait()
            self._full += files
        for path in self._full:
            try:
                if path.exists():
                    seal(path)
            except (OSError, ValueError) as error:
                _log.error("%s is not sealed: %s", path, error)

    def _write(self) -> None:
        if self._redaction is not None:
            self._redaction.refresh()
        for i in range(len(self._hidden)):
            if i % 32 == 0:
                time.sleep(0)  # without it, one that waits for the interpreter waits for 5 ms, again and again
            place, record = self._hidden.popleft()
            try:
                if self._redaction is not None:
                    self._redaction.apply(place.partition("/")[0], record)
            except Exception:  # noqa: BLE001  # it is not written then: what was to be hidden may still be in it
                self.dropped += 1
                _log.exception("a record of %s cannot be redacted", place)
                continue
            self._put(place, record)
        with self._lock:
            lines, self._lines, self._count = self._lines, {}, 0
        for place, text in lines.items():
            try:
                _append(self._stream(place), text)
            except OSError as error:
                count = text.count(b"\n")
                _log.error("%d records of %s wait for the next attempt: %s", count, place, error)
                with self._lock:
                    self._lines[place] = text + self._lines.get(place, b"")
                    self._count += count

    def _stream(self, place: str) -> FileIO:
        stream = self._streams.get(place)
        if stream is not None and not stream.closed and stream.tell() < self._file_bytes:
            return stream
        self._end(place)
        folder = self._folder / place
        folder.mkdir(parents=True, exist_ok=True)
        prune(folder, most_bytes=self._most_bytes, most_files=self._most_files)
        path = folder / f"{time.time_ns()}-{self._member}{LIVE}"
        self._streams[place] = FileIO(path, "ab", opener=_private)
        self._begun[place] = time.monotonic()
        return self._streams[place]

    def _end(self, place: str) -> None:
        """Close a file, which then is to be sealed."""
        if (stream := self._streams.pop(place, None)) is not None:
            stream.close()
            self._full.append(Path(os.fsdecode(stream.name)))


def _line(record: dict[str, Any]) -> bytes:
    record["time"] = round(record["time"], 6)  # as a sealed file has it
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def _append(stream: FileIO, lines: bytes | bytearray) -> None:
    """Write all or nothing; a part that cannot be taken back ends the file."""
    start = stream.tell()
    try:
        if stream.write(lines) != len(lines):
            raise OSError("no space is left")
    except OSError:
        try:
            stream.truncate(start)
            stream.seek(start)  # truncating moves no position, and the next attempt begins at it
        except OSError:
            stream.close()
        raise


def read_requests(
    folder: Path, model: str, *, since: float = 0.0, columns: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The records of a model that were made after `since` (seconds since the epoch), as good as oldest first.

    A line that a crash tore is left out. What a record does not tell is absent, or None. Who looks at a few things
    names them in `columns`, of `segments.COLUMNS`, and reads in a third of the time; others may be there all the same.
    """
    yield from read_segments(folder / model, since, columns)


def read_outcomes(folder: Path, model: str, *, since: float = 0.0) -> Iterator[dict[str, Any]]:
    """What turned out to be right: the ``label`` for the ``id`` of each request that somebody told of."""
    yield from read_segments(folder / model / OUTCOMES, since)
