"""What was asked and answered, one JSON object a line, for the monitors. Never makes a request wait."""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import operator
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import orjson

from lepton_tasks.serving.observing.redact import REDACTED as REDACTED
from lepton_tasks.serving.observing.redact import Redaction

REQUESTS_FOLDER = "requests"  # in the server's state folder
_THINNED = 10

_log = logging.getLogger("lepton.serving.request_log")


class RequestLog:
    """Writes records in the background, into ``folder/<model>/<time in ns>-<member>.jsonl``.

    A new file is begun at every start and whenever one is full, so a line torn by a crash is never continued.

    Args:
        folder: Where the files lie.
        every: Seconds between two writes; a crash loses at most this much.
        capacity: Records that may wait; beyond it new ones are dropped and counted in `dropped`.
        file_bytes: Size at which the next file is begun.
        files: Files kept per model; the oldest goes first.
        member: Which of a server's processes it is; each has files of its own.
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
        file_bytes: int = 64 * 2**20,
        files: int = 16,
        values: bool = True,
        member: int = 0,
        sample: float = 1.0,
        redaction: Redaction | None = None,
    ) -> None:
        self.dropped = self.skipped = 0
        self._sample, self._redaction = sample, redaction
        self._folder, self._every, self._capacity = folder, every, capacity
        self._member = member
        self._file_bytes, self._files, self._values = file_bytes, files, values
        self._waiting: collections.deque[tuple[str, dict[str, Any]]] = collections.deque()
        self._unwritten: list[tuple[str, dict[str, Any]]] = []  # redacted already
        self._streams: dict[str, FileIO] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, model: str, record: dict[str, Any]) -> None:
        """Hand a record over; returns at once."""
        waiting = len(self._waiting) + len(self._unwritten)
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
        self._waiting.append((model, record))

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(self._every)
            self._write()
        if lost := len(self._waiting) + len(self._unwritten):
            _log.error("%d records could not be written and are lost", lost)
        for stream in self._streams.values():
            stream.close()

    def _write(self) -> None:
        records: dict[str, list[dict[str, Any]]] = {}
        if self._redaction is not None:
            self._redaction.refresh()
        for model, record in self._unwritten:
            records.setdefault(model, []).append(record)
        unwritten: list[tuple[str, dict[str, Any]]] = []
        for _ in range(len(self._waiting)):
            model, record = self._waiting.popleft()
            if self._redaction is not None:
                self._redaction.apply(model, record)
            records.setdefault(model, []).append(record)
        for model, waited in records.items():
            lines = b"".join(_lines(waited))
            try:
                _append(self._stream(model), lines)
            except OSError as error:
                _log.error("%d records of %s wait for the next attempt: %s", len(waited), model, error)
                unwritten += [(model, record) for record in waited]
        self._unwritten = unwritten

    def _stream(self, model: str) -> FileIO:
        stream = self._streams.get(model)
        if stream is not None and not stream.closed:
            if stream.tell() < self._file_bytes:
                return stream
            stream.close()
        folder = self._folder / model
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob(f"*-{self._member}.jsonl"))[: -(self._files - 1) or None]:
            old.unlink(missing_ok=True)
        self._streams[model] = FileIO(folder / f"{time.time_ns()}-{self._member}.jsonl", "ab", opener=_private)
        return self._streams[model]


def _lines(records: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The records as JSON; in pieces of some 50 us, after which a thread that answers requests may go on."""
    for i, record in enumerate(records):
        if i % 32 == 0:
            time.sleep(0)  # without it, one that waits for the interpreter waits for 5 ms, again and again
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def _append(stream: FileIO, lines: bytes) -> None:
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


def read_requests(folder: Path, model: str, *, since: float = 0.0) -> Iterator[dict[str, Any]]:
    """The records of a model that were made after `since` (seconds since the epoch), as good as oldest first.

    A line that a crash tore is left out.
    """
    members: dict[str, list[Path]] = {}
    for path in sorted((folder / model).glob("*.jsonl")):
        members.setdefault(path.stem.partition("-")[2], []).append(path)
    yield from heapq.merge(*(_records(files, since) for files in members.values()), key=operator.itemgetter("time"))


def _records(files: Sequence[Path], since: float) -> Iterator[dict[str, Any]]:
    """The records of one process's files after `since`."""
    for path, following in itertools.zip_longest(files, files[1:]):
        if following is not None and int(following.stem.partition("-")[0]) / 1e9 < since:
            continue  # all of it is older
        with path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    continue
                record: dict[str, Any] = orjson.loads(line)
                if record["time"] > since:
                    yield record
