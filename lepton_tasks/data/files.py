"""Files of a data set: local, in an archive, or at an address such as s3://."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import fsspec

from lepton_tasks.core.errors import DataError, LeptonError, UnavailableError

_BATCH = 64  # files fetched at once from a remote place


class Files(Protocol):
    """Files below one folder, except hidden files and folders."""

    address: str
    """Address for messages."""
    local: bool
    """Whether `uri` is a path that every worker can open."""

    def state(self) -> Any:
        """JSON values that change when any file does."""

    def folders(self) -> list[str]:
        """Names of the top-level folders, sorted, including empty ones where they exist."""

    def names(self) -> Sequence[str]:
        """Names of all files, in the order of `read`."""

    def uri(self, name: str) -> str:
        """Path or URL of a file."""

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """The named files; None for one that cannot be read."""


class LocalFiles:
    """A local folder, or one shared with the workers."""

    local = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    def state(self) -> Any:
        """Folders, and the names, sizes and modification times of files."""
        return {"folders": self.folders(), "files": [(name, *_stamp(self.folder / name)) for name in self.names()]}

    def folders(self) -> list[str]:
        """Includes links to folders, except those to this folder or its parents."""
        try:
            with os.scandir(self.folder) as entries:
                return sorted(entry.name for entry in entries if self._is_folder(entry) and entry.name[0] != ".")
        except OSError as error:
            raise DataError(f"no folder of pictures here ({error.strerror}).", where=self.address) from error

    def names(self) -> list[str]:
        """Folder by folder; links to folders are followed only at the top level, to prevent loops.

        Raises:
            DataError: a folder is missing or not readable, or a name is not valid UTF-8.
        """
        self.folders()  # a missing folder is an error, not an empty one
        found = []
        for top in ["", *self.folders()]:
            for folder, folders, names in os.walk(self.folder / top, onerror=_unreadable):
                folders[:] = [] if not top else sorted(name for name in folders if not name.startswith("."))
                inner = Path(folder).relative_to(self.folder)
                found += [(inner / name).as_posix() for name in sorted(names) if not name.startswith(".")]
        check_readable(found, self.address)
        return found

    def uri(self, name: str) -> str:
        """The file's path."""
        return str(self.folder / name)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """In the order of `names`."""
        for name in names:
            try:
                yield name, content_of(self.folder / name)
            except OSError:
                yield name, None

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            loop = entry.is_symlink() and self.folder.resolve().is_relative_to(Path(entry.path).resolve())
            return entry.is_dir() and not loop
        except (OSError, RuntimeError):  # a link to itself
            return False


class RemoteFiles:
    """A folder at an fsspec address. Credentials and endpoints come from the environment (``AWS_*``)."""

    local = False

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise DataError(f"unsupported kind of address: {error}.", where=address) from error
        self._found: dict[str, Any] | None = None

    def state(self) -> Any:
        """Names, sizes, and entity tags or modification times."""
        marks = ("size", "ETag", "LastModified", "mtime")
        return [(name, *(str(info.get(mark)) for mark in marks)) for name, info in self._listing().items()]

    def folders(self) -> list[str]:
        """Derived from the files: object stores have no empty folders."""
        return sorted({name.split("/")[0] for name in self._listing() if "/" in name})

    def names(self) -> list[str]:
        """Sorted."""
        return list(self._listing())

    def uri(self, name: str) -> str:
        """The file's address."""
        return f"{self.address}/{name}"

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
        """In batches, in the order of `names`."""
        paths = {name: f"{self._root.rstrip('/')}/{name}" for name in names}
        wanted = list(paths)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            with reported(self.address):
                found = self._system.cat([paths[name] for name in batch], on_error="return")
            for name in batch:
                data = found.get(paths[name])
                yield name, data if isinstance(data, bytes) else None

    def _listing(self) -> dict[str, Any]:
        if self._found is None:
            with reported(self.address):
                self._system.invalidate_cache()  # earlier listings may be outdated
                found = self._system.find(self._root, detail=True)
            start = len(self._root.rstrip("/")) + 1
            names = {path[start:]: info for path, info in found.items()}
            self._found = {name: names[name] for name in sorted(names) if not _hidden(name)}
        return self._found


def content_of(path: Path) -> bytes:
    """The bytes of a file; raises `OSError` for anything but a regular file, since reading a pipe might block."""
    if not path.is_file():
        raise OSError(errno.ENOENT, "no such file, or not a plain one")
    return path.read_bytes()


def check_readable(names: Sequence[str], address: str) -> None:
    """Raise `DataError` for the first name that is not valid UTF-8, which no table can store."""
    for name in names:
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise DataError(
                f"the name of the file {os.fsencode(name)!r} is not in UTF-8.", where=address, fix="Rename it."
            )


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"the folder cannot be read ({error.strerror}).", where=str(error.filename), fix="Grant access, or remove it."
    ) from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a broken link is a row too; `clean` rejects it
        return -1, -1
    return status.st_size, status.st_mtime_ns


_CREDENTIALS = "Set credentials: for s3://, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of AWS."


@contextlib.contextmanager
def reported(address: str) -> Iterator[None]:
    """Convert errors of file access into `DataError` or `UnavailableError`."""
    try:
        yield
    except LeptonError:
        raise
    except Exception as error:  # every protocol has its own exceptions
        # fsspec also reports an unreachable host as "not found".
        silent = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
        if isinstance(error, FileNotFoundError | PermissionError) and not silent:
            if isinstance(error, PermissionError):
                raise DataError(f"may not be read: {error}.", where=address, fix=_CREDENTIALS) from error
            there = "there is nothing here" if error.filename in (None, address) else f"there is no {error.filename}"
            raise DataError(f"{there}.", where=address) from error
        raise UnavailableError(
            f"cannot be reached ({type(error).__name__}: {error}).",
            where=address,
            fix="Check the address and the network, or download the data and give the folder.",
        ) from error
