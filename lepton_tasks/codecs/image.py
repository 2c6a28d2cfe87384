"""Pictures in any common format -> uint8 arrays of one shape; the same code in training and in serving."""

from __future__ import annotations

import dataclasses
import io
from typing import Annotated, Literal

import numpy as np
import pydantic
from PIL import Image, UnidentifiedImageError

from lepton_tasks.core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # raster only: EPS would start Ghostscript
MAX_PIXELS = 50_000_000  # 150 MB as RGB; Pillow itself only warns from 89 million on

Mode = Literal["L", "RGB", "RGBA"]
Side = Annotated[int, pydantic.Field(ge=1, le=4096)]
Resize = Literal["stretch", "crop", "pad"]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class ImageCodec:
    """The input codec of pictures.

    Args:
        height: Pixels.
        width: Pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        resize: ``stretch`` to the size, ``crop`` the middle that fills it, or ``pad`` with black around the whole.
        max_pixels: A picture with more is refused before it is decoded.
    """

    height: Side
    width: Side
    channels: Literal[1, 3, 4] = 3
    resize: Resize = "stretch"
    max_pixels: Annotated[int, pydantic.Field(ge=1)] = MAX_PIXELS

    def decode(self, payload: bytes) -> np.ndarray:
        """One encoded picture as uint8 [height, width, channels].

        Raises:
            DataError: the bytes are no whole picture, or one that is too large.
        """
        modes: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
        # Twice the size is decoded, so that the antialiased resize, not the JPEG decoder, makes the last step.
        least = 2 * max(self.height, self.width)
        picture = open_picture(payload, modes[self.channels], least=least, max_pixels=self.max_pixels)
        pixels = np.asarray(self._resized(picture))
        return pixels.reshape(self.height, self.width, self.channels)

    def _resized(self, picture: Image.Image) -> Image.Image:
        size = (self.width, self.height)
        if picture.size == size:
            return picture
        bilinear = Image.Resampling.BILINEAR  # Pillow widens the filter when it shrinks: no aliasing
        across, down = self.width / picture.width, self.height / picture.height
        if self.resize == "stretch":
            return picture.resize(size, bilinear)
        if self.resize == "crop":
            scale = max(across, down)
            left = max(0.0, (picture.width - self.width / scale) / 2)  # rounding may give -1e-14, which Pillow refuses
            top = max(0.0, (picture.height - self.height / scale) / 2)
            return picture.resize(size, bilinear, box=(left, top, picture.width - left, picture.height - top))
        scale = min(across, down)
        inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = Image.new(picture.mode, size)
        canvas.paste(picture.resize(inner, bilinear), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return canvas


def open_picture(payload: bytes, mode: Mode, *, least: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The decoded picture, upright (EXIF), 8 bits a channel, transparency laid on white unless `mode` keeps it.

    Args:
        payload: An encoded picture; of an animation, the first frame counts.
        mode: The channels wanted.
        least: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no side falls below this. Pixels.
        max_pixels: A larger picture is refused before it is decoded.

    Raises:
        DataError: the bytes are no whole picture, or one that is too large.
    """
    if not payload:
        raise DataError("the file is empty.")
    try:
        picture: Image.Image = Image.open(io.BytesIO(payload), formats=FORMATS)
        if picture.width * picture.height > max_pixels:
            raise DataError(
                f"the picture has {picture.width} x {picture.height} pixels, more than the {max_pixels:,} allowed.",
                fix="Scale it down.",
            )
        if least is not None:  # does something to a JPEG, nothing to the rest
            picture.draft("L" if mode == "L" else "RGB", (least, least))
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        picture = _converted(picture, mode)
        return picture.transpose(turn) if turn is not None else picture
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its own text holds a memory address
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds on broken bytes
        raise DataError(f"the picture cannot be decoded: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # broken EXIF raises many kinds, and the pixels are good without it
        return 1


def _converted(picture: Image.Image, mode: Mode) -> Image.Image:
    if picture.mode == "F":
        raise DataError("the picture has floating-point pixels, whose range is unknown.", fix="Save 8 or 16 bits.")
    if picture.mode == "I" or picture.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8, not scale them
        wide = np.asarray(picture.convert("I"))
        picture = Image.fromarray((np.clip(wide, 0, 65_535) >> 8).astype(np.uint8))
    if picture.has_transparency_data and mode != "RGBA":
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "white")
        picture.alpha_composite(layer)
    return picture if picture.mode == mode else picture.convert(mode)
