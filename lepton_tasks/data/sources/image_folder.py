"""Source of images: a folder with one sub-folder per class."""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.rows import file_rows, in_batches, source_schema
from lepton_tasks.data.sources.sample_files import open_files

Naming = Literal["folder", "parent", "none"]

_WAY_OUT = (
    "Put one sub-folder per class there, with its pictures in it (e.g. cat/ and dog/ of Kaggle's "
    '"Dogs vs. Cats", which is Microsoft\'s Asirra set, or of the Oxford-IIIT Pet photos), or give another '
    "path in `data.source.params.path`; a relative one starts from the folder in LEPTON_DATA."
)


class ImageFolder:
    """Images in ``path/<class>/**``; every file in a class folder is a row.

    Skips hidden files and folders, links to folders inside a class, and top-level files, unless neither label nor group
    comes from a folder name.

    Args:
        path: A folder, an archive (``photos.zip``, ``photos.tar.gz``), a folder in one (``photos.zip/train``) or an
            address (``s3://bucket/photos``); relative to `data_root`.
        data_root: Set by the environment.
        label: Class of an image: the name of its top-level ``folder``, of its ``parent`` folder, or ``none``.
        group: Likewise, the entity that must not be in two splits: a person, a patient.
        group_pattern: Instead of `group`, a regular expression; its match in the file name is the group.
    """

    def __init__(
        self,
        path: str,
        data_root: Path,
        label: Naming = "folder",
        group: Naming = "none",
        group_pattern: re.Pattern[str] | None = None,
    ) -> None:
        self._files = open_files(path, data_root)
        self._label, self._group, self._pattern = label, group, group_pattern

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or modification time."""
        with _with_advice():
            return {"folder": self._files.address, "files": digest_of(self._files.state())}

    def read(self) -> Iterator[pa.Table]:
        """Rows in file order.

        Raises:
            DataError: the folder is missing, or contains no class folder or no file.
        """
        if not (names := self._names()):
            raise DataError("no class folder holds a file.", where=self._files.address, fix=_WAY_OUT)
        further = () if self._group == "none" and self._pattern is None else ("group",)
        named = (
            row | {"label": _label_of(row["sample_id"], self._label), "group": self._group_of(row["sample_id"])}
            for row in file_rows(self._files, names)
        )
        yield from in_batches(named, source_schema(*further))

    def describe(self) -> dict[str, Any]:
        """The folder and the number of files per class, including empty ones."""
        counts = collections.Counter(dict.fromkeys(self._folders(), 0) if self._label == "folder" else {})
        counts.update(label for name in self._names() if (label := _label_of(name, self._label)))
        return {"folder": self._files.address, "classes": dict(counts)}

    def _group_of(self, name: str) -> str | None:
        if self._pattern is None:
            return _label_of(name, self._group)
        found = self._pattern.search(PurePosixPath(name).name)
        return found and found[0]

    def _names(self) -> list[str]:
        """The files that become rows."""
        self._folders()
        flat = self._label == self._group == "none"
        return [name for name in self._files.names() if flat or "/" in name]

    def _folders(self) -> list[str]:
        with _with_advice():
            folders = self._files.folders()
        if not folders and not self._label == self._group == "none":
            raise DataError("the folder has no sub-folders.", where=self._files.address, fix=_WAY_OUT)
        return folders


@contextlib.contextmanager
def _with_advice() -> Iterator[None]:
    """Add the expected folder structure to errors."""
    try:
        yield
    except DataError as error:
        raise DataError(error.what, where=error.where, fix=error.fix or _WAY_OUT) from error


def _label_of(name: str, by: Naming) -> str | None:
    parts = PurePosixPath(name).parts
    return None if by == "none" else parts[0] if by == "folder" else parts[-2]
