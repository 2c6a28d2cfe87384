"""Copies of other servers' request logs in this state folder, for all readers of the log.

A copy has the name of the original and the id of its log. Name and size identify copied data, so nothing is counted
twice, even after a kill: sealed files are written atomically, and lines are appended after the last complete line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from lepton_tasks.core.access import bearer, trusted
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.release_protocols import Address
from lepton_tasks.serving.observing.request_log import OUTCOMES, OWN_FILE
from lepton_tasks.serving.observing.segments import GATHERED, LIVE, SEALED, begun_at, is_copy, log_files

_TIMEOUT_SECONDS = 10.0
_MAX_CONCURRENT = 16
_FLUSH_SECONDS = 1.0  # servers write their log every half second
_MAX_LINE = 2**20
_ID = re.compile("[0-9a-f]{8,64}")
_MAGIC = b"PAR1"  # a Parquet file ends with it
_SCOPE = "Create a key with `lepton key add stages --models '*' --models '/requests/*'` and set LEPTON_API_KEY to it."


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Result of `gather`.

    Attributes:
        servers: Number of servers.
        bytes: Number of bytes copied.
        faults: Reasons for incomplete logs, by server address.
    """

    servers: int
    bytes: int
    faults: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of another server's log.

    Attributes:
        name: Its name on the server.
        log: Id of the log.
        bytes: Its size.
    """

    name: str
    log: str
    bytes: int

    @property
    def copy(self) -> Path:
        """Path of the copy, relative to the model's folder."""
        path = Path(self.name)
        return path.with_name(f"{path.stem}-{self.log}{path.suffix}")


def gather(
    folder: Path,
    model: str,
    servers: Sequence[Address],
    *,
    key: str,
    own: str = "",
    seconds: float = 300.0,
    most_bytes: int = 4 * 2**30,
    most_files: int = 10_000,
) -> Gathered:
    """Copy new records of the servers' logs of a model; one process at a time, others wait.

    Args:
        folder: The request log of this state folder.
        model: The model.
        servers: The servers.
        key: An API key with access to the log.
        own: Id of this state folder's log, which is not copied.
        seconds: Time limit for starting another file; the next call continues.
        most_bytes: Maximum size of a model's copies; the oldest are removed, and not copied again.
        most_files: Maximum number of copies.
    """
    home = folder / model
    folders = (home, home / OUTCOMES)
    with _exclusive(home), contextlib.ExitStack() as stack, ThreadPoolExecutor(_MAX_CONCURRENT) as threads:
        started, monotonic = time.time(), time.monotonic()
        logs = [_Log(stack, server, model, key, home, until=monotonic + seconds) for server in servers]
        list(threads.map(_Log.list_files, logs))
        _skip_duplicates(logs, own)
        copies = {_stem(path): path for subfolder in folders for path in log_files(subfolder) if is_copy(path)}
        remote = {_stem(home / file.copy): file for log in logs for file in log.files}
        selected = _within_limits(copies, remote, most_bytes=most_bytes, most_files=most_files)
        for log in logs:
            log.files = [file for file in log.files if _stem(home / file.copy) in selected]
        for stem in copies.keys() - selected:
            for suffix in (LIVE, SEALED):
                stem.with_suffix(suffix).unlink(missing_ok=True)
        list(threads.map(_Log.copy, logs))
        for subfolder in folders:
            if subfolder.is_dir():
                _replace(subfolder / GATHERED, repr(started - _FLUSH_SECONDS).encode())
    return Gathered(len(servers), sum(log.copied for log in logs), {log.at: log.fault for log in logs if log.fault})


@contextlib.contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".gathering").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _skip_duplicates(logs: Sequence[_Log], own: str) -> None:
    """Skip second addresses of a server, and the log of this state folder."""
    known_ids = {own}
    for log in logs:
        if log.id in known_ids:
            log.files = []
        known_ids.add(log.id)


def _stem(path: Path) -> Path:
    """Path without the suffix, which differs between live and sealed files."""
    return path.with_suffix("")


def _within_limits(
    copies: Mapping[Path, Path], remote: Mapping[Path, _File], *, most_bytes: int, most_files: int
) -> Collection[Path]:
    """The latest of the local and remote files within the limits."""
    sizes = {stem: path.stat().st_size for stem, path in copies.items()}
    sizes |= {stem: max(file.bytes, sizes.get(stem, 0)) for stem, file in remote.items()}
    selected: set[Path] = set()
    for stem in sorted(sizes, key=begun_at, reverse=True)[:most_files]:
        most_bytes -= sizes[stem]
        if most_bytes < 0:
            break
        selected.add(stem)
    return selected


class _Log:
    """The log of one server.

    Attributes:
        at: The server's address.
        id: Id of the log; empty until known.
        files: Files to copy.
        copied: Number of bytes copied.
        fault: Why the copy is incomplete.
    """

    def __init__(
        self, stack: contextlib.ExitStack, server: Address, model: str, key: str, home: Path, *, until: float
    ) -> None:
        import httpx

        self.at, self.id, self.fault, self.copied = server.url, "", "", 0
        self.files: list[_File] = []
        self._home, self._until = home, until
        self._url = f"{server.url}/v1/requests/{model}"
        self._extensions, headers = server.extensions, bearer(key) | server.headers
        client = httpx.Client(headers=headers, verify=trusted(), timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._client = stack.enter_context(client)

    def list_files(self) -> None:
        """List the log's files."""
        with self._faults_recorded():
            self.files = self._list()

    def copy(self) -> None:
        """Copy `files`, the oldest first."""
        with self._faults_recorded():
            for i, file in enumerate(sorted(self.files, key=lambda file: begun_at(file.copy))):
                if time.monotonic() > self._until:
                    raise UnavailableError(f"{len(self.files) - i} files are left for the next time.")
                if file.copy.suffix == SEALED:
                    self._copy_sealed(file)
                else:
                    self._copy_lines(file)

    @contextlib.contextmanager
    def _faults_recorded(self) -> Iterator[None]:
        """Record exceptions of the block as this server's fault."""
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            self.fault = f"it does not answer: {error or type(error).__name__}"
        except (UnavailableError, OSError) as error:
            self.fault = str(error)
        except (ValueError, KeyError, TypeError) as error:
            self.fault = f"it answers something else: {error!r}"

    def _list(self) -> list[_File]:
        found = orjson.loads(self._get(self._url) or b"null")
        self.id, files = found["log"], found["files"]
        if not _ID.fullmatch(self.id) or not all(OWN_FILE.fullmatch(one["name"]) for one in files):
            raise ValueError("names that are none")
        return [_File(one["name"], self.id, int(one["bytes"])) for one in files]

    def _read(self, name: str, offset: int) -> bytes | None:
        """Content of a file from `offset`, empty at its end; None if the file no longer exists."""
        return self._get(f"{self._url}/{name}", offset=offset)

    def _get(self, url: str, **params: int) -> bytes | None:
        reply = self._client.get(url, params=params, extensions=self._extensions)
        if reply.status_code in (401, 403):
            raise UnavailableError("its log is not for this API key.", fix=_SCOPE)
        if reply.status_code == 404 and params:
            return None
        if not reply.is_success:
            raise UnavailableError(f"it answers {reply.status_code} to a request for its log.")
        return reply.content

    def _copy_sealed(self, file: _File) -> None:
        path = self._home / file.copy
        if path.exists() and path.stat().st_size == file.bytes:
            return
        parts: list[bytes] = []
        size = 0
        while size < file.bytes:
            part = self._read(file.name, size)
            if not part:  # removed by retention meanwhile
                return
            parts.append(part)
            size += len(part)
        if not parts or not parts[-1].endswith(_MAGIC):
            raise UnavailableError(f"{file.name} is not whole.")
        path.parent.mkdir(exist_ok=True)
        _replace(path, b"".join(parts))
        path.with_suffix(LIVE).unlink(missing_ok=True)
        self.copied += size

    def _copy_lines(self, file: _File) -> None:
        path = self._home / file.copy
        if path.with_suffix(SEALED).exists():
            return
        path.parent.mkdir(exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as stream:
            offset = _end_of_lines(stream)
            stream.truncate(offset)
            stream.seek(offset)
            part: bytes | None = b""
            # An empty part: the last line is incomplete after a crash.
            while offset < file.bytes and (part := self._read(file.name, offset)):
                stream.write(part)
                offset += len(part)
                self.copied += len(part)
        if offset < file.bytes and part is None:  # sealed since it was listed
            name = str(Path(file.name).with_suffix(SEALED))
            for sealed in (one for one in self._list() if one.name == name):
                self._copy_sealed(sealed)


def _end_of_lines(stream: Any) -> int:
    """Offset after the last complete line of a file; a kill may leave an incomplete one."""
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - _MAX_LINE)
    stream.seek(start)
    last: int = stream.read().rfind(b"\n")
    return start + last + 1 if last >= 0 else 0


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically, readable by its owner only."""
    part = path.with_name(f".{path.name}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
    part.replace(path)
