"""Request logs of other servers, copied into this state folder, where all that read the log find them.

A file is copied as it is, under its name and the id of the log that it is from. So what was copied once is known by
its name and size, and nothing counts twice, whoever is killed meanwhile: sealed files appear whole or not at all, and
lines are added where the last whole line ends.
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

_ANSWER_SECONDS = 10.0
_AT_ONCE = 16
_UNWRITTEN_SECONDS = 1.0  # a server writes its log every half second
_LONGEST_LINE = 2**20
_ID = re.compile("[0-9a-f]{8,64}")
_MAGIC = b"PAR1"  # a Parquet file ends with it
_SCOPE = "Create a key with `lepton key add stages --models '*' --models '/requests/*'` and set LEPTON_API_KEY to it."


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What came of it.

    Attributes:
        servers: How many were asked.
        bytes: How many were copied.
        faults: Why the log of a server is not complete, by its address.
    """

    servers: int
    bytes: int
    faults: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of another server's log.

    Attributes:
        name: Its name there.
        log: The id of the log.
        bytes: Its size.
    """

    name: str
    log: str
    bytes: int

    @property
    def copy(self) -> Path:
        """Where the copy lies, in the model's folder."""
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
    """Copy what is new in the servers' logs of a model; one process at a time does, others wait for it.

    Args:
        folder: The request log of this state folder.
        model: The model.
        servers: Whose logs.
        key: An API key of theirs that is for the log.
        own: The id of the log of this state folder, which is not copied.
        seconds: After which no further file is begun; the next call goes on.
        most_bytes: Of the copies of a model; the oldest go, and are not copied again.
        most_files: Of these.
    """
    home = folder / model
    places = (home, home / OUTCOMES)
    with _alone(home), contextlib.ExitStack() as stack, ThreadPoolExecutor(_AT_ONCE) as threads:
        began, monotonic = time.time(), time.monotonic()
        logs = [_Log(stack, server, model, key, home, until=monotonic + seconds) for server in servers]
        list(threads.map(_Log.look, logs))
        _forget_doubles(logs, own)
        copies = {_stem(path): path for place in places for path in log_files(place) if is_copy(path)}
        offered = {_stem(home / file.copy): file for log in logs for file in log.files}
        kept = _within(copies, offered, most_bytes=most_bytes, most_files=most_files)
        for log in logs:
            log.files = [file for file in log.files if _stem(home / file.copy) in kept]
        for stem in copies.keys() - kept:
            for suffix in (LIVE, SEALED):
                stem.with_suffix(suffix).unlink(missing_ok=True)
        list(threads.map(_Log.copy, logs))
        for place in places:
            if place.is_dir():
                _replace(place / GATHERED, repr(began - _UNWRITTEN_SECONDS).encode())
    return Gathered(len(servers), sum(log.copied for log in logs), {log.at: log.fault for log in logs if log.fault})


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".gathering").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _forget_doubles(logs: Sequence[_Log], own: str) -> None:
    """A server that has two addresses is copied once, and the one of this state folder not at all."""
    seen = {own}
    for log in logs:
        if log.id in seen:
            log.files = []
        seen.add(log.id)


def _stem(path: Path) -> Path:
    """A file without what tells lines from a sealed one."""
    return path.with_suffix("")


def _within(
    copies: Mapping[Path, Path], offered: Mapping[Path, _File], *, most_bytes: int, most_files: int
) -> Collection[Path]:
    """Of what there is here and there, the latest within the bounds."""
    sizes = {stem: path.stat().st_size for stem, path in copies.items()}
    sizes |= {stem: max(file.bytes, sizes.get(stem, 0)) for stem, file in offered.items()}
    kept: set[Path] = set()
    for stem in sorted(sizes, key=begun_at, reverse=True)[:most_files]:
        most_bytes -= sizes[stem]
        if most_bytes < 0:
            break
        kept.add(stem)
    return kept


class _Log:
    """The log of one server.

    Attributes:
        at: The server's address.
        id: The log's id; empty until it is known.
        files: Those to be copied, as far as they are not.
        copied: Bytes that were.
        fault: Why not all of it was copied.
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
        client = httpx.Client(headers=headers, verify=trusted(), timeout=_ANSWER_SECONDS, trust_env=False)
        self._client = stack.enter_context(client)

    def look(self) -> None:
        """Ask which files there are."""
        with self._blamed():
            self.files = self._listed()

    def copy(self) -> None:
        """Copy `files`, the oldest first."""
        with self._blamed():
            for i, file in enumerate(sorted(self.files, key=lambda file: begun_at(file.copy))):
                if time.monotonic() > self._until:
                    raise UnavailableError(f"{len(self.files) - i} files are left for the next time.")
                if file.copy.suffix == SEALED:
                    self._copy_sealed(file)
                else:
                    self._copy_lines(file)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """What fails is the fault of this server, and of no other."""
        import httpx

        try:
            yield
        except httpx.TransportError as error:
            self.fault = f"it does not answer: {error or type(error).__name__}"
        except (UnavailableError, OSError) as error:
            self.fault = str(error)
        except (ValueError, KeyError, TypeError) as error:
            self.fault = f"it answers something else: {error!r}"

    def _listed(self) -> list[_File]:
        found = orjson.loads(self._ask(self._url) or b"null")
        self.id, files = found["log"], found["files"]
        if not _ID.fullmatch(self.id) or not all(OWN_FILE.fullmatch(one["name"]) for one in files):
            raise ValueError("names that are none")
        return [_File(one["name"], self.id, int(one["bytes"])) for one in files]

    def _part(self, name: str, offset: int) -> bytes | None:
        """What follows in a file, empty at its end; None if there is no such file any more."""
        return self._ask(f"{self._url}/{name}", offset=offset)

    def _ask(self, url: str, **params: int) -> bytes | None:
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
            part = self._part(file.name, size)
            if not part:  # removed for its age meanwhile
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
            while offset < file.bytes and (part := self._part(file.name, offset)):  # empty: a crash tore the last line
                stream.write(part)
                offset += len(part)
                self.copied += len(part)
        if offset < file.bytes and part is None:  # sealed since it was listed
            name = str(Path(file.name).with_suffix(SEALED))
            for sealed in (one for one in self._listed() if one.name == name):
                self._copy_sealed(sealed)


def _end_of_lines(stream: Any) -> int:
    """Where the last whole line of a file ends; behind it is what a kill tore."""
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - _LONGEST_LINE)
    stream.seek(start)
    last: int = stream.read().rfind(b"\n")
    return start + last + 1 if last >= 0 else 0


def _replace(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, that only its owner may read."""
    part = path.with_name(f".{path.name}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
    part.replace(path)
