"""Read zip and tar archives in place, with bounded expansion."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.files import reported

_NAME = re.compile(r"^(?P<archive>.+?\.(?:zip|tar|tgz|tbz2|txz|tar\.gz|tar\.bz2|tar\.xz))(?:/(?P<inside>.*))?$", re.I)

_MAX_FILE = 256 << 20  # bytes of one file; the largest picture that is decoded takes 200 MB uncompressed
_MAX_RATIO = 100  # images and XML compress 1 to 20 times, zip bombs 1,000 times and more
_RATIO_EXEMPT = 64 << 20  # bytes always allowed: a small archive of blank images is harmless

_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


def max_unpacked_size(size: int) -> int:
    """Maximum unpacked bytes of an archive or compressed file of `size` bytes."""
    return max(_RATIO_EXEMPT, _MAX_RATIO * size)


def split_archive(path: str) -> tuple[str | None, str]:
    """``"x/data.zip/photos"`` -> ``("x/data.zip", "photos")``; ``(None, "")`` if the path names no archive."""
    found = _NAME.match(path)
    return (found["archive"], (found["inside"] or "").strip("/")) if found else (None, "")


class Archive:
    """The files in a folder of a zip or tar archive.

    Args:
        address: A path or an fsspec address; a remote archive is first downloaded to a temporary file.
        inside: A folder in the archive; "" for all.
    """

    local = False

    def __init__(self, address: str, inside: str) -> None:
        self.address, self._inside = address, inside
        self._found: dict[str, str] | None = None  # name below the folder -> name in the archive

    def state(self) -> Any:
        """Size and time or tag of the archive itself."""
        with reported(self.address):
            system, path = fsspec.core.url_to_fs(self.address)
            info = system.info(path)
        return [
            self.address,
            self._inside,
            *(str(info.get(mark)) for mark in ("size", "ETag", "LastModified", "mtime")),
        ]

    def folders(self) -> list[str]:
        """Top-level folders of the files."""
        return sorted({name.split("/")[0] for name in self.names() if "/" in name})

    def names(self) -> list[str]:
        """Names in archive order, for sequential reading.

        Raises:
            DataError: it is damaged, would unpack to too much, or contains a path that leads out of it.
        """
        if self._found is None:
            start = f"{self._inside}/" if self._inside else ""
            with self._opened() as stream, self._reported():
                members = _listed(stream, self.address)
            self._found = {name[len(start) :]: name for name in members if name.startswith(start)}
        return list(self._found)

    def uri(self, name: str) -> str:
        """fsspec URL: ``zip://cat/1.jpg::/data/photos.zip``."""
        kind = "zip" if self.address.lower().endswith(".zip") else "tar"
        return f"{kind}://{self._inside and self._inside + '/'}{name}::{self.address}"

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """The named files, in archive order."""
        self.names()
        assert self._found is not None  # `names` sets it
        wanted = set(names)
        below = {full: name for name, full in self._found.items() if name in wanted}
        with self._opened() as stream, self._reported():
            for full, data in _contents(stream, set(below), self.address):
                yield below[full], data

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A sequential stream of one file, by its name in the whole archive; of any size."""
        with self._opened() as stream, self._reported(), contextlib.ExitStack() as stack:
            member = None
            if zipfile.is_zipfile(stream):
                member = stack.enter_context(zipfile.ZipFile(stream)).open(name)
            else:
                stream.seek(0)
                archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r|*"))
                info = next((info for info in archive if info.name.removeprefix("./") == name), None)
                member = archive.extractfile(info) if info is not None and info.isfile() else None
            if member is None:
                raise DataError(f"{name} is a link or a device.", where=self.address, fix="Pack the file itself.")
            yield stack.enter_context(member)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with contextlib.ExitStack() as stack:
            with reported(self.address):
                if "://" in self.address:
                    stream: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(stack.enter_context(fsspec.open(self.address)), stream, 1 << 20)
                else:
                    stream = stack.enter_context(Path(self.address).open("rb"))
            stream.seek(0)
            yield stream

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except _BROKEN as error:
            raise DataError(
                f"the archive cannot be read: {error or type(error).__name__}.",
                where=self.address,
                fix="Fetch it again, or unpack it and give the folder.",
            ) from error


def _listed(stream: IO[bytes], address: str) -> list[str]:
    """Names of the files, after checks of names and declared sizes."""
    size = stream.seek(0, 2)
    names: dict[str, None] = {}
    total = 0
    for name, length in _members(stream):
        _check_name(name, address)
        total += length
        if total > max_unpacked_size(size):
            raise DataError(
                f"{name} expands it from {size:,} to {total:,} bytes: more than {_MAX_RATIO} times as many. It may be "
                f"a zip bomb, so it is not unpacked.",
                where=address,
                fix="If you trust it, unpack it by hand and give the folder.",
            )
        if name in names:
            raise DataError(f"holds {name} twice.", where=address, fix="Repack it.")
        if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts):
            names[name] = None
    return list(names)


def _members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Name and declared size of each file, link and device."""
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            yield from ((info.filename, info.file_size) for info in archive.infolist() if not info.is_dir())
        return
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        yield from ((member.name.removeprefix("./"), member.size) for member in archive if not member.isdir())


def _contents(stream: IO[bytes], wanted: set[str], address: str) -> Iterator[tuple[str, bytes | None]]:
    """Name and bytes of the wanted files; None for links and devices."""
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if info.filename in wanted:
                    with archive.open(info) as file:
                        yield info.filename, _bounded(file, info.file_size, info.filename, address)
        return
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if (name := member.name.removeprefix("./")) in wanted:
                content = archive.extractfile(member) if member.isfile() else None
                yield name, None if content is None else _bounded(content, member.size, name, address)


def _bounded(file: IO[bytes], declared: int, name: str, address: str) -> bytes:
    if declared > _MAX_FILE:
        raise DataError(
            f"{name} takes {declared:,} bytes; at most {_MAX_FILE:,} are read of one file.",
            where=address,
            fix="If you trust it, unpack it by hand and give the folder.",
        )
    data = file.read(declared + 1)
    if len(data) != declared:
        raise DataError(f"{name} does not have the {declared:,} bytes it declares.", where=address, fix="Repack it.")
    return data


def _check_name(name: str, address: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise DataError(
            f"holds {name!r}, which leads out of the archive.", where=address, fix="Do not use it; repack it."
        )
