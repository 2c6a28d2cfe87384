"""A folder of pictures, one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.rows import SOURCE_SCHEMA

_BATCH_ROWS = 10_000


class ImageFolder:
    """Pictures in ``path/<class>/**``; every file in a class folder is a row, so that nothing is lost unseen.

    Files beside the class folders, hidden files and folders, and links to folders inside a class are passed over.

    Args:
        path: The folder; a relative one starts from `data_root`.
        data_root: Given by the environment.
    """

    def __init__(self, path: str, data_root: Path) -> None:
        self.folder = Path(data_root, path).expanduser()

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or time of change."""
        files = [(name, *_stamp(path)) for _, name, path in self._files()]
        return {"folder": str(self.folder), "classes": self._classes(), "files": len(files), "stamps": digest_of(files)}

    def read(self) -> Iterator[pa.Table]:
        """Rows sorted by class and name.

        Raises:
            DataError: no such folder, or no class folder or no file in it.
        """
        rows = [
            {"sample_id": name, "uri": str(path), "data": None, "label": label} for label, name, path in self._files()
        ]
        if not rows:
            raise DataError("no class folder holds a file.", where=str(self.folder), fix=self._way_out())
        for start in range(0, len(rows), _BATCH_ROWS):
            yield pa.Table.from_pylist(rows[start : start + _BATCH_ROWS], schema=SOURCE_SCHEMA)

    def describe(self) -> dict[str, Any]:
        """The folder and how many files each class has, empty ones included."""
        counts = dict.fromkeys(self._classes(), 0)
        for label, _, _ in self._files():
            counts[label] += 1
        return {"folder": str(self.folder), "classes": counts}

    def _classes(self) -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        except OSError as error:
            raise DataError(
                f"no folder of pictures here ({error.strerror}).", where=str(self.folder), fix=self._way_out()
            ) from error
        if not names:
            raise DataError("the folder has no sub-folders.", where=str(self.folder), fix=self._way_out())
        return names

    def _files(self) -> Iterator[tuple[str, str, Path]]:
        """Class, name below the folder and path of each file, in a stable order."""
        for label in self._classes():
            for folder, folders, names in os.walk(self.folder / label):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    if not name.startswith("."):
                        path = Path(folder, name)
                        yield label, path.relative_to(self.folder).as_posix(), path

    def _way_out(self) -> str:
        return (
            "Put one sub-folder per class there, with its pictures in it (e.g. cat/ and dog/ of Kaggle's "
            '"Dogs vs. Cats", which is Microsoft\'s Asirra set, or of the Oxford-IIIT Pet photos), or give another '
            "path in `data.source.params.path`; a relative one starts from the folder in LEPTON_DATA."
        )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nothing is a row too: `clean` refuses it by name
        return -1, -1
    return status.st_size, status.st_mtime_ns
