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
_SEALING = ".sealing"  # lock file
_THINNED = 10
_RETRY_SECONDS = 60.0  # after a failure to seal

_log = logging.getLogger("lepton.serving.request_log")


class RequestLog:
    """Write records in the background to ``folder/<model>/<time in ns>-<member>.jsonl``.

    A new segment begins at every start and whenever one is full or old, so a line truncated by a crash is never
    continued. The previous segment is sealed: a lowest-priority process rewrites it as Parquet. Outcomes reported
    later go to ``folder/<model>/outcomes/``.

    Args:
        folder: Root folder of the log.
        every: Seconds between writes; a crash loses at most this much.
        capacity: Maximum pending records; beyond it new ones are dropped and counted in `dropped`.
        file_bytes: Size at which the next file begins.
        file_seconds: Age at which the next file begins.
        most_bytes: Maximum total size per model; the oldest files are removed first.
        most_files: Maximum number of files per model.
        member: Number of this server process; each has its own files.
        members: Number of server processes.
        values: Whether to log the ``values`` of samples. Also omitted while a tenth of `capacity` is pending.
        sample: Fraction of records to log, at random; a tenth of it while half of `capacity` is pending.
        redaction: Redaction rules, with the share of each model.

    Attributes:
        dropped: Records that were not written, mostly for lack of room.
        skipped: Records not sampled.
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
        self._hidden: collections.deque[tuple[str, dict[str, Any]]] = collections.deque()  # not yet redacted
        self._lines: dict[str, bytearray] = {}  # by place: serialised lines
        self._count = 0  # of lines
        self._lock = threading.Lock()
        self._streams: dict[str, FileIO] = {}
        self._begun: dict[str, float] = {}
        self._full: list[Path] = []  # to be sealed
        self._sealing: tuple[subprocess.Popen[bytes], list[Path]] | None = None
        self._seal_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def add(self, model: str, record: dict[str, Any]) -> None:
        """Queue a record; does not block."""
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
        if not self._values or waiting >= self._capacity // 10:  # a line without values is short
            record.pop("values", None)
        if self._redaction is not None and self._redaction.hides(model):
            self._hidden.append((model, record))
        else:  # half a microsecond here; in the thread, it would compete with requests for the GIL
            self._put(model, record)

    def add_outcome(self, model: str, record: dict[str, Any]) -> bool:
        """Queue an outcome without blocking; return whether there was room."""
        if self._count + len(self._hidden) >= self._capacity:
            self.dropped += 1
            return False
        self._hidden.append((f"{model}/{OUTCOMES}", record))
        return True

    def _put(self, place: str, record: dict[str, Any]) -> None:
        """Serialise and buffer a record; one that JSON cannot represent is dropped, without failing the request."""
        try:
            line = _line(record)
        except TypeError:  # e.g. a lone surrogate, or an integer above 64 bits
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
        """Write and seal pending records; stop the thread."""
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
            except Exception:  # noqa: BLE001  # later records must still be written
                _log.exception("the request log continues after an error")
        if lost := self._count + len(self._hidden):
            _log.error("%d records could not be written and are lost", lost)
        self._seal_all()

    def _turn_over(self) -> None:
        """Close old files and start sealing closed ones, in one server process at a time."""
        now = time.monotonic()
        for place, stream in list(self._streams.items()):
            if stream.closed or now - self._begun[place] >= self._file_seconds:
                self._end(place)
        if self._sealing is not None:
            process, files = self._sealing
            if process.poll() is None:
                return
            self._sealing = None
            if process.returncode:  # it logged the reason
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
        """Start a process to seal closed files; None while another server process is sealing: each takes 90 MB."""
        handle = os.open(self._folder / _SEALING, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # inherited by the child until it exits
            command = [sys.executable, "-m", "lepton_tasks.serving.observing.segments", *map(str, self._full)]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[handle])
        except BlockingIOError:
            return None
        finally:
            os.close(handle)

    def _seal_all(self) -> None:
        """Seal the rest synchronously: no requests are left to delay. The next start retries failures."""
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
                time.sleep(0)  # release the GIL: waiting threads would wait 5 ms each time
            place, record = self._hidden.popleft()
            try:
                if self._redaction is not None:
                    self._redaction.apply(place.partition("/")[0], record)
            except Exception:  # noqa: BLE001  # never write it unredacted
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
        """Close a file and queue it for sealing."""
        if (stream := self._streams.pop(place, None)) is not None:
            stream.close()
            self._full.append(Path(os.fsdecode(stream.name)))


def _line(record: dict[str, Any]) -> bytes:
    record["time"] = round(record["time"], 6)  # precision of sealed files
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


def _private(path: str, flags: int) -> int:
    """Open a file with mode 0600."""
    return os.open(path, flags, 0o600)


def _append(stream: FileIO, lines: bytes | bytearray) -> None:
    """Write all or nothing; if a partial write cannot be undone, close the file."""
    start = stream.tell()
    try:
        if stream.write(lines) != len(lines):
            raise OSError("no space is left")
    except OSError:
        try:
            stream.truncate(start)
            stream.seek(start)  # truncate does not move the position
        except OSError:
            stream.close()
        raise


def read_requests(
    folder: Path, model: str, *, since: float = 0.0, columns: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Records of a model after `since` (seconds since the epoch), approximately oldest first.

    Lines truncated by a crash are skipped. Missing fields are absent or None. Selecting a few `columns` (from
    `segments.COLUMNS`) takes a third of the time; others may still be present.
    """
    yield from read_segments(folder / model, since, columns)


def read_outcomes(folder: Path, model: str, *, since: float = 0.0) -> Iterator[dict[str, Any]]:
    """Reported outcomes: the true ``label`` by the ``id`` of the request."""
    yield from read_segments(folder / model / OUTCOMES, since)
