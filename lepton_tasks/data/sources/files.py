"""Files of a table as streams: local, glob patterns, archives or remote addresses."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import functools
import gzip
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import urlsplit, urlunsplit

import fsspec

from lepton_tasks.core.errors import ConfigError, DataError, LeptonError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.archives import Archive, max_unpacked_size, split_archive
from lepton_tasks.data.files import check_readable, reported

_MAGIC = re.compile(r"[*?\[]")
_PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One file. Picklable; opened on the worker that reads it.

    Attributes:
        address: Path or URL without secrets, for messages.
        place: Path or URL of the file or of its archive.
        member: Its name in the archive; None if it is not in one.
        stamp: Known size, modification time or entity tag: changes when the file does.
        size: Bytes of the file or of the archive; None if unknown.
    """

    address: str
    place: str
    member: str | None
    stamp: tuple[str, ...]
    size: int | None

    @property
    def path(self) -> Path | None:
        """The path of a local file that is not in an archive, else None."""
        return Path(self.place) if self.member is None and "://" not in self.place else None

    @property
    def packed(self) -> bool:
        """Whether the file itself is compressed (``.gz``, ``.bz2``, ``.xz``)."""
        return PurePosixPath(self.address).suffix in _PACKED

    @contextlib.contextmanager
    def open(self) -> Iterator[Stream]:
        """A sequential stream of the decompressed bytes.

        Raises:
            DataError: the file is missing, damaged, or unpacks to too much.
            UnavailableError: the server does not answer.
        """
        with contextlib.ExitStack() as stack:
            with reported(self.address):
                raw = stack.enter_context(self._raw())
                if self.packed:
                    raw = stack.enter_context(_PACKED[PurePosixPath(self.address).suffix](raw))
            packed = self.packed or self.member is not None
            yield Stream(raw, self.address, max_unpacked_size(self.size) if packed and self.size is not None else None)

    @contextlib.contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """A seekable stream; compressed files and archive members are first copied to a temporary file."""
        if self.member is None and not self.packed:
            with contextlib.ExitStack() as stack:
                with reported(self.address):
                    raw = stack.enter_context(self._raw())
                yield raw
            return
        with tempfile.TemporaryFile() as copy, self.open() as stream:
            shutil.copyfileobj(cast("IO[bytes]", stream), copy, 1 << 20)
            copy.seek(0)
            yield copy

    def _raw(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        if self.member is not None:
            return Archive(self.place, "").open(self.member)
        return cast("contextlib.AbstractContextManager[IO[bytes]]", fsspec.open(self.place))


class Stream:
    """A sequential stream with Lepton's errors and a limit on the unpacked size."""

    def __init__(self, raw: IO[bytes], address: str, limit: int | None) -> None:
        self._raw, self._address, self._limit, self._seen = raw, address, limit, 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        try:
            with reported(self._address) if "://" in self._address else contextlib.nullcontext():
                data = self._raw.read(size)
        except LeptonError:
            raise
        except _BROKEN as error:
            raise DataError(
                f"cannot be read to its end: {error or type(error).__name__}.",
                where=self._address,
                fix="Fetch it again.",
            ) from error
        self._seen += len(data)
        if self._limit is not None and self._seen > self._limit:
            raise DataError(
                f"unpacks to more than {self._limit:,} bytes. It may be a zip bomb, so no more of it is unpacked.",
                where=self._address,
                fix="If you trust it, unpack it by hand and give the file.",
            )
        return data


class FileSource:
    """Base class of sources that read files.

    Args:
        path: See `find_files`.
        data_root: Base folder of relative paths.
        suffixes: Suffixes of files to read from a folder.
    """

    def __init__(self, path: str, data_root: Path, suffixes: Sequence[str]) -> None:
        self._path, self._data_root, self._suffixes = path, data_root, suffixes

    @functools.cached_property
    def files(self) -> list[TableFile]:
        """The files, in a stable order; raises `DataError` if there are none."""
        return find_files(self._path, self._data_root, self._suffixes)

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or modification time."""
        return {"files": digest_of([(file.address, file.stamp) for file in self.files])}

    def describe(self) -> dict[str, Any]:
        """The files and their size."""
        sizes = {file.place: file.size or 0 for file in self.files}
        return {
            "files": [file.address for file in self.files[:100]],
            "count": len(self.files),
            "bytes": sum(sizes.values()),
        }


def find_files(path: str, data_root: Path, suffixes: Sequence[str]) -> list[TableFile]:
    """The files that match a path, in a stable order.

    Args:
        path: A file, a folder, or a pattern (``days/*.csv``, ``days/**/*.csv``), optionally in an archive
            (``data.zip/days/*.csv``) or at an fsspec address (``s3://bucket/days``, ``https://host/days.csv.gz``).
            Folders and patterns skip hidden files and names that begin with ``_``; links to files are followed, links
            to folders are not.
        data_root: Base folder of relative paths.
        suffixes: Suffixes of files to read from a folder, e.g. ``.csv``, also compressed.

    Raises:
        DataError: there are none.
    """
    place = _safe(path) if "://" in path else str(Path(data_root, path).expanduser())
    archive, inside = split_archive(place)
    if archive is not None and not ("://" not in place and Path(archive).is_dir()):
        found = _in_archive(archive, inside, suffixes)
    else:
        found = _plain_files(place, suffixes)
    if not found:
        raise DataError(
            f"no such file, and no folder with any ({', '.join(suffixes)}).",
            where=shown(place),
            fix="Put the data there or give another path in `data.source.params`; a relative one starts from the "
            f"folder in LEPTON_DATA, now {data_root}.",
        )
    check_readable([file.address for file in found], shown(place))
    return sorted(found, key=lambda file: file.address)


def _plain_files(place: str, suffixes: Sequence[str]) -> list[TableFile]:
    with reported(shown(place)):
        system, root = fsspec.core.url_to_fs(place)
        system.invalidate_cache()  # earlier listings may be outdated
        pattern = urlsplit(place).path if "://" in place else "" if Path(place).exists() else root
        if fixed := _MAGIC.search(pattern):
            infos = system.glob(root, detail=True)
            start, suffixes = root[: fixed.start() + len(root) - len(fixed.string)].count("/"), ("",)
        elif not system.exists(root):
            return []
        elif (info := system.info(root))["type"] != "directory":
            return [_file(place, info)]
        else:
            infos, start = system.find(root, detail=True), root.rstrip("/").count("/") + 1
        infos = {name: system.info(name) if info.get("islink") else info for name, info in infos.items()}
    return [
        _file(name if "://" not in place else system.unstrip_protocol(name), info)
        for name, info in infos.items()
        if info["type"] == "file" and _included(name, start, suffixes)
    ]


def _in_archive(archive: str, inside: str, suffixes: Sequence[str]) -> list[TableFile]:
    whole = Archive(archive, "")
    if "://" not in archive and not Path(archive).is_file():
        return []
    names = whole.names()
    stamp = tuple(map(str, whole.state()[2:]))
    size = int(stamp[0]) if stamp[0].isdigit() else None
    if inside in names:
        chosen = [inside]
    elif _MAGIC.search(inside):
        pattern = re.compile(fsspec.utils.glob_translate(inside))
        chosen = [name for name in names if pattern.match(name) and _included(name, 0, ("",))]
    else:
        start = f"{inside}/" if inside else ""
        chosen = [name for name in names if name.startswith(start) and _included(name, start.count("/"), suffixes)]
    return [TableFile(f"{shown(archive)}/{name}", archive, name, stamp, size) for name in chosen]


def _included(name: str, start: int, suffixes: Sequence[str]) -> bool:
    parts = name.split("/")[start:]
    if any(part.startswith((".", "_")) for part in parts):
        return False
    last = parts[-1].lower()
    for ending in _PACKED:
        last = last.removesuffix(ending)
    return last.endswith(tuple(suffixes))


def _file(place: str, info: dict[str, Any]) -> TableFile:
    marks = ("size", "ETag", "LastModified", "mtime")
    stamp = tuple(str(info[mark]) for mark in marks if info.get(mark) is not None)
    return TableFile(shown(place), place, None, stamp, info.get("size"))


def shown(place: str) -> str:
    """The address without user, password and query."""
    if "://" not in place:
        return place
    parts = urlsplit(place)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _safe(path: str) -> str:
    if urlsplit(path).password is not None:
        raise ConfigError(
            "the address contains a password, which would be stored with the data.",
            where=shown(path),
            fix="Remove it: credentials are read from the environment (AWS_ACCESS_KEY_ID, ...) or from ~/.netrc.",
        )
    return path
