"""Source of images with boxes in a COCO JSON file."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.rows import file_rows, in_batches, source_schema
from lepton_tasks.data.sources.sample_files import open_files


class Coco:
    """Images and boxes listed in a COCO JSON file; one unlabelled row per image.

    Missing images become rows that `clean` rejects. Crowd boxes (``iscrowd``) are dropped and counted. The JSON file is
    held in memory.

    Args:
        path: The folder, archive or address with both; relative to `data_root`.
        data_root: Set by the environment.
        annotations: The JSON file in it.
        images: The image folder in it; "" for the folder itself.

    Source: https://cocodataset.org/#format-data: ``bbox`` is x, y, width, height in pixels from the top left corner.
    """

    def __init__(self, path: str, data_root: Path, annotations: str, images: str = "") -> None:
        self._files = open_files(path, data_root)
        self._annotations, self._images = annotations.strip("/"), images.strip("/")

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or modification time."""
        return {"folder": self._files.address, "files": digest_of(self._files.state())}

    def read(self) -> Iterator[pa.Table]:
        """Rows in file order.

        Raises:
            DataError: the JSON file is missing or invalid, or a box refers to an unknown image.
        """
        boxes = self._listed[0]
        names = self._files.names()
        gone = boxes.keys() - set(names)
        listed = [name for name in names if name in boxes]
        found = (row | {"boxes": boxes[row["sample_id"]]} for row in file_rows(self._files, listed))
        schema = source_schema("boxes")
        yield from in_batches(found, schema)
        missing = (
            {"sample_id": name, "uri": self._files.uri(name), "data": None, "label": None, "boxes": boxes[name]}
            for name in boxes
            if name in gone
        )
        yield from in_batches(missing, schema)

    def describe(self) -> dict[str, Any]:
        """The folder, and the numbers of listed images, boxes and crowds."""
        boxes, crowds = self._listed
        return {
            "folder": self._files.address,
            "pictures": len(boxes),
            "boxes": sum(map(len, boxes.values())),
            "crowds_left_out": crowds,
        }

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """Boxes by image name, and the number of crowds."""
        where = f"{self._files.address}/{self._annotations}"
        data = dict(self._files.read([self._annotations])).get(self._annotations)
        if data is None:
            raise DataError("no such file.", where=where, fix="Name it in `data.source.params.annotations`.")
        try:
            return _boxes_of(json.loads(data), self._images)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError(
                f"not a COCO file of objects: {type(error).__name__}: {error}.",
                where=where,
                fix="It holds `images`, `annotations` with `bbox`, and `categories`.",
            ) from error


def _boxes_of(content: Any, folder: str) -> tuple[dict[str, list[dict[str, Any]]], int]:
    start = f"{folder}/" if folder else ""
    names = {image["id"]: start + image["file_name"] for image in content["images"]}
    labels = {category["id"]: category["name"] for category in content.get("categories", ())}
    boxes: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    kinds = collections.Counter(bool(mark.get("iscrowd")) for mark in content["annotations"])
    for mark in content["annotations"]:
        if not mark.get("iscrowd"):
            x, y, width, height = map(float, mark["bbox"])
            box = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
            boxes[names[mark["image_id"]]].append({"label": labels.get(mark.get("category_id")), **box})
    return boxes, kinds[True]
