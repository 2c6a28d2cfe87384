"""Output codec of image generation: array -> PNG file."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class PictureCodec:
    """A generated image as PNG."""

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """``image``: one row of ``picture`` (float32 [N, H, W, C] in [0, 1]) as a PNG file in base64."""
        return {"image": base64.b64encode(encode_png(to_uint8(outputs["picture"][row]))).decode()}


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Convert pixels from float in [0, 1] to uint8."""
    pixels: np.ndarray = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels uint8 [H, W, C] with 1, 3 or 4 channels."""
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
