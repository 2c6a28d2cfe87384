"""Source of images with boxes in Pascal VOC XML files."""

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

    Every image in the folder is a row; without an XML file its boxes are null (not annotated). Unreadable XML files and
    XML files without an image become rows with a fault, for `clean` to reject.

    Args:
        path: The folder, archive or address with both folders; relative to `data_root`.
        data_root: Set by the environment.
        annotations: The folder of XML files in it.
        images: The folder of images in it.

    Source: Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", 2010; its development kit counts
        pixels from 1, inclusive, so 1 is subtracted from `xmin` and `ymin`.
    """

    def __init__(
        self, path: str, data_root: Path, annotations: str = "Annotations", images: str = "JPEGImages"
    ) -> None:
        self._files = open_files(path, data_root)
        self._annotations, self._images = annotations.strip("/"), images.strip("/")

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or modification time."""
        return {"folder": self._files.address, "files": digest_of(self._files.state())}

    def read(self) -> Iterator[pa.Table]:
        """Rows in image order, then XML files without an image.

        Raises:
            DataError: one of the folders is missing or empty.
        """
        pictures = self._below(self._images)
        files = self._files.read(self._below(self._annotations))
        marked = {_inner(name, self._annotations): _annotation(data) for name, data in files}
        rows = (
            row | marked.pop(_inner(row["sample_id"], self._images), _NOT_ANNOTATED)
            for row in file_rows(self._files, pictures)
        )
        schema = source_schema("boxes", "fault")
        yield from in_batches(rows, schema)
        lost = (self._lost(name) for name in sorted(marked))
        yield from in_batches(lost, schema)

    def describe(self) -> dict[str, Any]:
        """The folder and the numbers of images and XML files."""
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


_NOT_ANNOTATED = {"boxes": None, "fault": None}


def _inner(name: str, folder: str) -> str:
    """The path below the folder without suffix, which an image and its XML file have in common."""
    return str(PurePosixPath(name).relative_to(folder).with_suffix(""))


def _annotation(data: bytes | None) -> dict[str, Any]:
    """The boxes of an XML file, or its fault."""
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
