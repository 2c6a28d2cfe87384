"""Features `image`: images as uint8 arrays of one shape, with their boxes and metadata."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.codecs.image import ImageCodec, Resize, Side
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.expectations import LABELLED, rule
from lepton_tasks.data.perceptual import perceptual_hash
from lepton_tasks.data.samples import Samples

_EXPECTATIONS: dict[str, tuple[Expectation, ...]] = {
    "raw": (
        *LABELLED,
        rule("expect_column_values_to_not_be_null", column="sha256", mostly=0.5),  # null: the file cannot be read
        rule("expect_column_values_to_be_unique", "warning", column="sha256"),
        rule("expect_column_values_to_be_between", "warning", column="size_bytes", min_value=1),
    ),
    "features": (
        *LABELLED,
        rule("expect_column_distinct_values_to_equal_set", column="split", value_set=["train", "validation", "test"]),
        # Images that are equal after resizing may be in two splits and inflate test metrics.
        rule("expect_column_values_to_be_unique", "warning", column="input_sha256"),
        # An image of a single colour contains no information.
        rule("expect_column_values_to_be_between", "warning", column="std", min_value=0.001),
        rule("expect_column_values_to_be_between", column="std", min_value=0.001, mostly=0.5),
    ),
}

_BOXES_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("label", pa.string()),
        *((side, pa.float32()) for side in ("xmin", "ymin", "xmax", "ymax")),
    ]
)
_MIN_SIDE = 1.0  # pixels of the array; boxes cropped to less are dropped


@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """Images resized to one shape, with mean and standard deviation for normalisation.

    Args:
        height: Pixels.
        width: Pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        resize: ``stretch``, ``crop`` or ``pad``: see `ImageCodec`.
    """

    height: Side
    width: Side
    channels: Literal[1, 3, 4] = 3
    resize: Resize = "stretch"

    facts: ClassVar[Mapping[str, pa.DataType]] = {
        "width": pa.int64(),
        "height": pa.int64(),
        "content_sha256": pa.string(),
        "perceptual_hash": pa.uint64(),
        "contrast": pa.float64(),
    }

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one array."""
        return self.height, self.width, self.channels

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Rules for raw rows or for features."""
        return _EXPECTATIONS[stage]

    def probe(self, payload: bytes) -> tuple[dict[str, Any], np.ndarray]:
        """Original size, digest and perceptual hash of the upright pixels, contrast; and the array."""
        opened = self._codec.open(payload)
        picture, width, height = opened
        digest = hashlib.sha256(f"{width}x{height}:".encode() + picture.tobytes())
        pixels = self._codec.resized(opened)
        # Padding does not count as contrast.
        left, top, right, bottom = self._codec.content_box(width, height)
        return {
            "width": width,
            "height": height,
            "content_sha256": digest.hexdigest(),
            "perceptual_hash": perceptual_hash(picture),
            "contrast": float(pixels[top:bottom, left:right].std()) / 255,
        }, pixels

    def fit(self, samples: Samples, ctx: RunContext) -> dict[str, Any]:
        """Shape, per-channel mean and standard deviation of the pixels in [0, 1], and the number of groups."""
        # Integer sums are exact, so the result does not depend on the batch size.
        total = np.zeros((2, self.channels), np.uint64)
        for batch in samples.batches():
            lines = batch.reshape(-1, self.width * self.channels)  # long rows are summed faster
            for row, values in enumerate((lines, np.square(lines, dtype=np.uint16))):
                total[row] += values.sum(axis=0, dtype=np.uint64).reshape(-1, self.channels).sum(axis=0)
        count = len(samples) * self.height * self.width
        pairs = [(int(s), int(q)) for s, q in zip(*total, strict=True)]
        spreads = [math.sqrt(count * q - s**2) / count / 255 for s, q in pairs]
        return {
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "mean": [s / count / 255 for s, _ in pairs],
            "std": [max(spread, 1 / 255) for spread in spreads],  # avoids a division by 0 for a constant channel
            **({"groups": len(samples.rows["group"].unique())} if "group" in samples.rows.column_names else {}),
        }

    def transform(self, samples: Samples, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write ``inputs.npy``, uint8 [rows, height, width, channels], and ``boxes.parquet`` if rows have boxes.

        The latter has a row per box: ``row`` (of the array), ``sample_id, label`` and its sides in pixels of the array,
        float32. Boxes are cropped with the image, and dropped if nothing is left.
        """
        size = samples.write(folder / "inputs.npy")
        facts = {"rows": len(samples), "bytes": size}
        if "boxes" in samples.rows.column_names:
            boxes = self._placed_boxes(samples.rows)
            pq.write_table(boxes, folder / "boxes.parquet")
            facts["boxes"] = boxes.num_rows
        return facts

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`ImageCodec` with the same sizes."""
        return "image", dataclasses.asdict(self)

    def requests(self, arrays: np.ndarray) -> list[bytes]:
        """Images uint8 [N, height, width, channels] as PNG files, which the codec decodes to the same pixels."""
        return [_png(pixels) for pixels in arrays]

    @functools.cached_property
    def _codec(self) -> ImageCodec:
        return ImageCodec(**dataclasses.asdict(self))

    def _placed_boxes(self, rows: pa.Table) -> pa.Table:
        lines = []
        sides = (self.width, self.height)
        for row, sample in enumerate(rows.select(["sample_id", "boxes", "width", "height"]).to_pylist()):
            for box in sample["boxes"] or ():
                corners = np.array([[box["xmin"], box["ymin"]], [box["xmax"], box["ymax"]]])
                low, high = np.clip(self._codec.map_points(corners, sample["width"], sample["height"]), 0, sides)
                if (high - low).min() >= _MIN_SIDE:
                    lines.append((row, sample["sample_id"], box["label"], *low, *high))
        columns = list(zip(*lines, strict=True)) or [()] * len(_BOXES_SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _BOXES_SCHEMA, strict=True)]
        return pa.table(arrays, schema=_BOXES_SCHEMA)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
