"""Download public data sets: resumable, verified, atomic."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.core.store import sha256_file

if TYPE_CHECKING:
    import httpx

_ATTEMPTS = 5  # consecutive attempts without progress
_TIMEOUT = 30.0  # seconds without a byte
_LARGE = 10 << 20  # bytes; smaller files are reported in kB

Meter = Callable[[int, str], Callable[[int], None]]


@dataclasses.dataclass(frozen=True)
class PublicFile:
    """One file of a public data set.

    Attributes:
        address: The publisher's URL.
        sha256: Digest of the file; None if the publisher may change it.
    """

    address: str
    sha256: str | None

    @property
    def name(self) -> str:
        """File name."""
        return urlsplit(self.address).path.rpartition("/")[2]

    def from_mirror(self, mirror: str | None, folder: str) -> str:
        """The download URL: ``<mirror>/<folder>/<name>`` with a mirror (or ``LEPTON_MIRROR``), else the publisher's."""
        mirror = mirror or os.environ.get("LEPTON_MIRROR")
        return f"{mirror.rstrip('/')}/{folder}/{self.name}" if mirror else self.address


def fetched(
    files: Sequence[PublicFile], folder: Path, *, mirror: str | None = None, meter: Meter | None = None
) -> list[Path]:
    """Download missing files into a folder; returns the paths of all files.

    Args:
        files: The files.
        folder: Target folder.
        mirror: See `PublicFile.from_mirror`.
        meter: `RunContext.meter`, for progress.

    Raises:
        UnavailableError: a download failed; the message lists the missing files and the folder to put them into.
        DataError: an existing or downloaded file has the wrong digest.
    """
    targets = [folder / file.name for file in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, target in zip(files, targets, strict=True):
            with _locked(folder / f".{file.name}.lock"):
                if target.is_file():
                    _check(file, target)
                else:
                    address = file.from_mirror(mirror, folder.name)
                    _fetch(file, target, address, meter, way_out=_by_hand(files, folder))
    except PermissionError as error:
        raise DataError(
            f"cannot be written ({error.strerror}).", where=str(folder), fix=_by_hand(files, folder)
        ) from error
    return targets


def _check(file: PublicFile, path: Path) -> None:
    """Raise `DataError` if an existing file has the wrong digest."""
    if (found := sha256_file(path)) != (file.sha256 or found):
        raise DataError(
            f"is not the file of {file.address}: its sha256 is {found} and not {file.sha256}.",
            where=str(path),
            fix="Remove it to download it again.",
        )


def _fetch(file: PublicFile, target: Path, address: str, meter: Meter | None, *, way_out: str) -> None:
    part = target.with_name(f".{target.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(address, part, meter)
            break
        except UnavailableError as error:
            failures = failures + 1 if _size(part) <= before else 0
            if failures == _ATTEMPTS:
                raise UnavailableError(error.what, where=error.where, fix=way_out) from error
            time.sleep(min(2**failures, 8) / 4)
    if (found := sha256_file(part)) != (file.sha256 or found):
        part.unlink()
        raise DataError(
            f"sent a file with sha256 {found} instead of {file.sha256}; it was discarded.", where=address, fix=way_out
        )
    os.replace(part, target)
    _tag(part).unlink(missing_ok=True)


def _receive(address: str, part: Path, meter: Meter | None) -> None:
    """Download the rest of `part`."""
    import httpx

    have, tag = _size(part), _tag(part)
    headers = {"Accept-Encoding": "identity"}
    if have and tag.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text()}
    try:
        with httpx.stream("GET", address, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
                raise UnavailableError("the file became shorter.", where=address)
            if answer.is_error:
                raise UnavailableError(f"answers {answer.status_code} {answer.reason_phrase}.", where=address)
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            # Without a strong entity tag the rest might belong to another version, so the download restarts.
            etag = answer.headers.get("ETag", "")
            mark = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
            tag.write_text(mark) if mark else tag.unlink(missing_ok=True)
            with part.open("ab" if resumed else "wb") as stream:
                _write(answer, stream, meter)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise UnavailableError(f"cannot be fetched ({type(error).__name__}: {error}).", where=address) from error


def _write(answer: httpx.Response, stream: IO[bytes], meter: Meter | None) -> None:
    """Write the response; progress counts only its bytes, for a correct rate of a resumed download."""
    total, done = int(answer.headers.get("Content-Length", 0)), 0
    unit, size = ("MB", 1 << 20) if total >= _LARGE else ("kB", 1 << 10)
    tick = meter(max(1, total // size), unit) if meter is not None else None
    for data in answer.iter_bytes():
        stream.write(data)
        done += len(data)
        if tick is not None:
            tick(done // size)


def _by_hand(files: Sequence[PublicFile], folder: Path) -> str:
    """Instructions for a manual download: missing files with their digests."""
    missing = [file for file in files if not (folder / file.name).is_file()]
    named = [f"{file.name} (sha256 {file.sha256 or 'not known: it may change'})" for file in missing]
    return (
        f"Put {' and '.join(named)} into {folder} by hand, or set LEPTON_MIRROR to a server that has what is missing."
    )


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that no other process downloads the same file."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _tag(part: Path) -> Path:
    return part.with_suffix(".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
