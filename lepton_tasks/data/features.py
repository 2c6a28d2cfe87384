"""Pictures -> memory-mapped uint8 arrays of one shape."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lepton_tasks.codecs.image import ImageCodec, Resize, Side, open_picture
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.expectations import LABELLED, rule
from lepton_tasks.data.rows import Row, chunks_of, payload_of

_CHUNK_BYTES = 16 << 20
_CHUNK_ROWS = 64

_EXPECTATIONS: dict[str, tuple[Expectation, ...]] = {
    "raw": (
        *LABELLED,
        rule("expect_column_values_to_not_be_null", "warning", column="label"),
        rule("expect_column_values_to_not_be_null", column="sha256", mostly=0.5),  # null: the file cannot be read
        rule("expect_column_values_to_be_unique", "warning", column="sha256"),
        rule("expect_column_values_to_be_between", "warning", column="size_bytes", min_value=1),
    ),
    "features": (
        *LABELLED,
        rule("expect_column_distinct_values_to_equal_set", column="split", value_set=["train", "validation", "test"]),
        # Pictures that differ only in what resizing takes away may lie in two splits, and flatter the test figures.
        rule("expect_column_values_to_be_unique", "warning", column="input_sha256"),
        # A picture of one colour shows nothing.
        rule("expect_column_values_to_be_between", "warning", column="std", min_value=0.001),
        rule("expect_column_values_to_be_between", column="std", min_value=0.001, mostly=0.5),
    ),
}


@dataclasses.dataclass(frozen=True)
class ImageFeatures:
    """Pictures of any size as arrays of one size, and their mean and spread for the network to normalise with.

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

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Rules for rows as they came, or for what training will see."""
        return _EXPECTATIONS[stage]

    @staticmethod
    def probe(payload: bytes) -> dict[str, Any]:
        """Size of the whole decoded picture and the sha256 of its upright RGB pixels."""
        picture = open_picture(payload, "RGB")
        pixels = hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + picture.tobytes())
        return {"width": picture.width, "height": picture.height, "content_sha256": pixels.hexdigest()}

    def fit(self, rows: pa.Table, ctx: RunContext) -> dict[str, Any]:
        """Shape, and per channel mean and standard deviation of the pixels in [0, 1]."""
        # Sums of integers are exact, so neither the order of chunks nor the number of workers shows in the result.
        moments = map_chunks(functools.partial(_moments, self._codec()), self._chunks(rows), ctx, **_meter(rows))
        total, squares = np.sum(list(moments), axis=0)
        count = rows.num_rows * self.height * self.width
        pairs = [(int(s), int(q)) for s, q in zip(total, squares, strict=True)]
        spreads = [math.sqrt(count * q - s**2) / count / 255 for s, q in pairs]
        return {
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "mean": [s / count / 255 for s, _ in pairs],
            "std": [max(spread, 1 / 255) for spread in spreads],  # a channel of one value must not be divided by 0
        }

    def transform(self, rows: pa.Table, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write ``inputs.npy``, uint8 [rows, height, width, channels], into `folder`."""
        shape = (rows.num_rows, self.height, self.width, self.channels)
        inputs = np.lib.format.open_memmap(folder / "inputs.npy", mode="w+", dtype=np.uint8, shape=shape)
        start = 0
        for pixels in map_chunks(functools.partial(_decode, self._codec()), self._chunks(rows), ctx, **_meter(rows)):
            inputs[start : start + len(pixels)] = pixels
            start += len(pixels)
        inputs.flush()
        return {"rows": rows.num_rows, "bytes": inputs.nbytes}

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`ImageCodec` with the same sizes."""
        return "image", dataclasses.asdict(self)

    def _codec(self) -> ImageCodec:
        return ImageCodec(**dataclasses.asdict(self))

    def _chunks(self, rows: pa.Table) -> Any:
        size = _CHUNK_BYTES // (self.height * self.width * self.channels)
        return chunks_of(rows, max(1, min(_CHUNK_ROWS, size)))


def _meter(rows: pa.Table) -> dict[str, Any]:
    return {"total": rows.num_rows, "unit": "pictures"}


def _decode(codec: ImageCodec, rows: list[Row]) -> np.ndarray:
    """uint8 [rows, height, width, channels]."""
    return np.stack([_pixels(codec, row) for row in rows])


def _pixels(codec: ImageCodec, row: Row) -> np.ndarray:
    payload = payload_of(row)
    try:
        return codec.decode(payload)
    except DataError as error:
        raise DataError(error.what, where=row["uri"], fix="Add the step `undecodable` to `clean`.") from error


def _moments(codec: ImageCodec, rows: list[Row]) -> np.ndarray:
    """Per channel the sum of the pixels and of their squares, as uint64 [2, channels]."""
    pixels = _decode(codec, rows).reshape(-1, codec.channels).astype(np.uint64)
    return np.stack([pixels.sum(axis=0), (pixels**2).sum(axis=0)])
