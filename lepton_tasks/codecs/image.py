"""Input codec of images: any common format -> uint8 arrays of one shape, identical in training and serving."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pydantic
from PIL import Image, UnidentifiedImageError

from lepton_tasks.codecs.fields import Field
from lepton_tasks.core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # raster only: EPS would start Ghostscript
MAX_PIXELS = 50_000_000  # 150 MB as RGB; Pillow itself only warns from 89 million on

Mode = Literal["L", "RGB", "RGBA"]
Side = Annotated[int, pydantic.Field(ge=1, le=4096)]
Resize = Literal["stretch", "crop", "pad"]

# Part of the wanted size that a JPEG must have when it is decoded at 1/2, 1/4 or 1/8. A tenth less than all costs one
# level of 255 on average, and makes the step from 640 x 480 to 128 pixels 1.4 times as fast.
_ENOUGH = 0.9

_MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
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
_SIDEWAYS = {_TURNS[tag] for tag in (5, 6, 7, 8)}


class Opened(NamedTuple):
    """A decoded picture, upright, and the size it has at full scale, in pixels."""

    picture: Image.Image
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class ImageCodec:
    """Image files.

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

    media_type: ClassVar[str] = "image/png"
    suffix: ClassVar[str] = ".png"

    def decode(self, payload: bytes) -> np.ndarray:
        """One encoded picture as uint8 [height, width, channels].

        Raises:
            DataError: the bytes are not a complete image, or it is too large.
        """
        return self.resized(self.open(payload))

    def payload(self, instance: Any) -> bytes:
        """The encoded picture in ``{"image": "<base64>"}``; raises `DataError` if there is none."""
        text = instance.get("image") if isinstance(instance, dict) else None
        if not isinstance(text, str):
            raise DataError("a base64 string is missing.", where="image", fix='Send {"image": "<base64>"}.')
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"not base64: {error}.", where="image") from error

    def fields(self) -> list[Field]:
        """The picture."""
        return [Field("image", "picture", required=True)]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """Mean and standard deviation of its pixels, both in [0, 1]."""
        return {"brightness": float(sample.mean()) / 255, "contrast": float(sample.std()) / 255}

    def open(self, payload: bytes) -> Opened:
        """The picture in the codec's channels, a JPEG at the smallest scale that is not much below the codec's size.

        Raises:
            DataError: the bytes are not a complete image, or it is too large.
        """
        least = max(1, int(_ENOUGH * max(self.height, self.width)))
        return open_picture(payload, _MODES[self.channels], least=least, max_pixels=self.max_pixels)

    def resized(self, opened: Opened) -> np.ndarray:
        """What `open` gave, as uint8 [height, width, channels]."""
        picture, size = opened.picture, (self.width, self.height)
        bilinear = Image.Resampling.BILINEAR  # Pillow widens the filter when it shrinks: no aliasing
        if picture.size == size:
            pass
        elif self.resize == "pad":
            left, top, right, bottom = self._inner(opened.width, opened.height)
            canvas = Image.new(picture.mode, size)
            canvas.paste(picture.resize((right - left, bottom - top), bilinear), (left, top))
            picture = canvas
        else:
            picture = picture.resize(size, bilinear, box=self._outer(*picture.size))
        return np.asarray(picture).reshape(self.height, self.width, self.channels)

    def placed(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """Where points of a picture come to lie in the array, so that boxes follow their picture.

        Args:
            points: float [..., 2], x and y in pixels of the upright picture at full scale.
            width: Of that picture, in pixels.
            height: Likewise.

        Returns:
            float64 [..., 2], x and y in pixels of the array; outside of it where ``crop`` cuts them off.
        """
        source: tuple[float, ...] = (0, 0, width, height)
        target: tuple[float, ...] = (0, 0, self.width, self.height)
        if self.resize == "pad":
            target = self._inner(width, height)
        else:
            source = self._outer(width, height)
        (low, high), (first, last) = np.reshape(source, (2, 2)), np.reshape(target, (2, 2))
        placed: np.ndarray = (points - low) * ((last - first) / (high - low)) + first
        return placed

    def filled(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of the array that a picture of this size fills, in pixels: left, top, right, bottom."""
        return self._inner(width, height) if self.resize == "pad" else (0, 0, self.width, self.height)

    def _outer(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture that fills the array: left, top, right, bottom."""
        if self.resize == "stretch":
            return 0, 0, width, height
        scale = max(self.width / width, self.height / height)
        left = max(0.0, (width - self.width / scale) / 2)  # rounding may give -1e-14, which Pillow refuses
        top = max(0.0, (height - self.height / scale) / 2)
        return left, top, width - left, height - top

    def _inner(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of the array that a whole picture fills: left, top, right, bottom."""
        scale = min(self.width / width, self.height / height)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self.width - across) // 2, (self.height - down) // 2
        return left, top, left + across, top + down


def open_picture(payload: bytes, mode: Mode, *, least: int | None = None, max_pixels: int = MAX_PIXELS) -> Opened:
    """The decoded picture, upright (EXIF), 8 bits a channel, transparency laid on white unless `mode` keeps it.

    Args:
        payload: An encoded picture; of an animation, the first frame counts.
        mode: The channels wanted.
        least: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no side falls below this. Pixels.
        max_pixels: A larger picture is refused before it is decoded.

    Raises:
        DataError: the bytes are not a complete image, or it is too large.
    """
    if not payload:
        raise DataError("the file is empty.")
    try:
        picture: Image.Image = Image.open(io.BytesIO(payload), formats=FORMATS)
        width, height = picture.size
        if width * height > max_pixels:
            raise DataError(
                f"the picture has {width} x {height} pixels, more than the {max_pixels:,} allowed.",
                fix="Scale it down.",
            )
        if least is not None:  # does something to a JPEG, nothing to the rest
            picture.draft("L" if mode == "L" else "RGB", (least, least))
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        picture = _converted(picture, mode)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its own text holds a memory address
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # Pillow's parsers raise a dozen kinds on broken bytes
        raise DataError(f"the picture cannot be decoded: {_reason(error)}.") from error
    if turn is None:
        return Opened(picture, width, height)
    sides = (height, width) if turn in _SIDEWAYS else (width, height)
    return Opened(picture.transpose(turn), *sides)


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
