"""Pictures with boxes in Pascal VOC's XML files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.rows import file_rows, in_batches, source_schema
from lepton_tasks.data.sources.sample_files import open_files


class Voc:
    """Images with boxes in Pascal VOC XML; one unlabelled row per image.

    Every picture in the folder is a row; one without an XML file has null for boxes, as nobody said what it shows. An
    XML file that cannot be read, or that belongs to no picture, is a row with its fault, for `clean` to refuse.

    Args:
        path: The folder, archive or address that holds both folders; a relative path starts from `data_root`.
        data_root: Given by the environment.
        annotations: The folder of the XML files in it.
        images: The folder of the pictures in it.

    Source: Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", 2010; its development kit counts
        pixels from 1 and includes the last one, so 1 is taken off `xmin` and `ymin`.
    """

    def __init__(
        self, path: str, data_root: Path, annotations: str = "Annotations", images: str = "JPEGImages"
    ) -> None:
        self._files = open_files(path, data_root)
        self._annotations, self._images = annotations.strip("/"), images.strip("/")

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or time of change."""
        return {"folder": self._files.address, "files": digest_of(self._files.state())}

    def read(self) -> Iterator[pa.Table]:
        """Rows in the order of the pictures, then the XML files without one.

        Raises:
            DataError: one of the folders is missing or empty.
        """
        pictures = self._below(self._images)
        files = self._files.read(self._below(self._annotations))
        marked = {_inner(name, self._annotations): _marks(data) for name, data in files}
        rows = (
            row | marked.pop(_inner(row["sample_id"], self._images), _UNSEEN)
            for row in file_rows(self._files, pictures)
        )
        schema = source_schema("boxes", "fault")
        yield from in_batches(rows, schema)
        lost = (self._lost(name) for name in sorted(marked))
        yield from in_batches(lost, schema)

    def describe(self) -> dict[str, Any]:
        """The folder and how many files of both kinds there are."""
        return {
            "folder": self._files.address,
            "pictures": len(self._below(self._images)),
            "annotations": len(self._below(self._annotations)),
        }

    def _below(self, folder: str) -> list[str]:
        names = [name for name in self._files.names() if name.startswith(f"{folder}/")]
        if not names:
            raise DataError(
                f"no files in the folder {folder!r}.",
                where=self._files.address,
                fix="Name the folders of the data set in `data.source.params`: `annotations` (XML) and `images`.",
            )
        return names

    def _lost(self, inner: str) -> dict[str, Any]:
        name = f"{self._annotations}/{inner}.xml"
        return {
            "sample_id": name,
            "uri": self._files.uri(name),
            "data": None,
            "label": None,
            "boxes": None,
            "fault": f"no picture of this name in {self._images}",
        }


_UNSEEN = {"boxes": None, "fault": None}


def _inner(name: str, folder: str) -> str:
    """The path below the folder, without the ending: by it a picture and its XML file belong together."""
    return str(PurePosixPath(name).relative_to(folder).with_suffix(""))


def _marks(data: bytes | None) -> dict[str, Any]:
    """The boxes of an XML file, or what is wrong with it."""
    if data is None:
        return {"boxes": None, "fault": "the annotation cannot be read"}
    try:
        root = ElementTree.fromstring(data)
        return {"boxes": [_box(item) for item in root.iter("object")], "fault": None}
    except (ElementTree.ParseError, ValueError) as error:
        return {"boxes": None, "fault": f"the annotation cannot be read: {error}"}


def _box(item: ElementTree.Element) -> dict[str, Any]:
    sides = {}
    for side, first in (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0)):
        text = item.findtext(f"bndbox/{side}")
        if text is None:
            raise ValueError(f"an object without {side}")
        sides[side] = float(text) - first
    return {"label": item.findtext("name"), **sides}
