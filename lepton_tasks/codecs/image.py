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

# Minimum size of a JPEG decoded at 1/2, 1/4 or 1/8, as a fraction of the target size. 0.9 instead of 1 costs one level
# of 255 on average, and makes resizing from 640 x 480 to 128 pixels 1.4 times as fast.
_MIN_JPEG_SCALE = 0.9

_MODES: dict[int, Mode] = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {_TRANSPOSE[tag] for tag in (5, 6, 7, 8)}


class DecodedImage(NamedTuple):
    """A decoded, upright image, and its full-scale size in pixels."""

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
        resize: ``stretch`` to the size, ``crop`` the centre, or ``pad`` with black.
        max_pixels: Larger images are refused before decoding.
    """

    height: Side
    width: Side
    channels: Literal[1, 3, 4] = 3
    resize: Resize = "stretch"
    max_pixels: Annotated[int, pydantic.Field(ge=1)] = MAX_PIXELS

    media_type: ClassVar[str] = "image/png"
    suffix: ClassVar[str] = ".png"

    def decode(self, payload: bytes) -> np.ndarray:
        """One encoded image as uint8 [height, width, channels].

        Raises:
            DataError: the bytes are not a complete image, or it is too large.
        """
        return self.resized(self.open(payload))

    def payload(self, instance: Any) -> bytes:
        """The encoded image in ``{"image": "<base64>"}``; raises `DataError` if there is none."""
        text = instance.get("image") if isinstance(instance, dict) else None
        if not isinstance(text, str):
            raise DataError("a base64 string is missing.", where="image", fix='Send {"image": "<base64>"}.')
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"not base64: {error}.", where="image") from error

    def fields(self) -> list[Field]:
        """The image."""
        return [Field("image", "picture", required=True)]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """Mean and standard deviation of the pixels, both in [0, 1]."""
        return {"brightness": float(sample.mean()) / 255, "contrast": float(sample.std()) / 255}

    def open(self, payload: bytes) -> DecodedImage:
        """The decoded image in the codec's channels; a JPEG at the smallest scale not much below the codec's size.

        Raises:
            DataError: the bytes are not a complete image, or it is too large.
        """
        least = max(1, int(_MIN_JPEG_SCALE * max(self.height, self.width)))
        return open_picture(payload, _MODES[self.channels], least=least, max_pixels=self.max_pixels)

    def resized(self, image: DecodedImage) -> np.ndarray:
        """The result of `open` resized to uint8 [height, width, channels]."""
        picture, size = image.picture, (self.width, self.height)
        bilinear = Image.Resampling.BILINEAR  # Pillow widens the filter when it shrinks: no aliasing
        if picture.size == size:
            pass
        elif self.resize == "pad":
            left, top, right, bottom = self._target_box(image.width, image.height)
            canvas = Image.new(picture.mode, size)
            canvas.paste(picture.resize((right - left, bottom - top), bilinear), (left, top))
            picture = canvas
        else:
            picture = picture.resize(size, bilinear, box=self._source_box(*picture.size))
        return np.asarray(picture).reshape(self.height, self.width, self.channels)

    def map_points(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """Map image coordinates, e.g. of boxes, to coordinates of the resized array.

        Args:
            points: float [..., 2], x and y in pixels of the upright image at full scale.
            width: Of that image, in pixels.
            height: Of that image, in pixels.

        Returns:
            float64 [..., 2], x and y in pixels of the array; may lie outside of it with ``crop``.
        """
        source: tuple[float, ...] = (0, 0, width, height)
        target: tuple[float, ...] = (0, 0, self.width, self.height)
        if self.resize == "pad":
            target = self._target_box(width, height)
        else:
            source = self._source_box(width, height)
        (low, high), (first, last) = np.reshape(source, (2, 2)), np.reshape(target, (2, 2))
        mapped: np.ndarray = (points - low) * ((last - first) / (high - low)) + first
        return mapped

    def content_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of the array that an image of this size covers, in pixels: left, top, right, bottom."""
        return self._target_box(width, height) if self.resize == "pad" else (0, 0, self.width, self.height)

    def _source_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of the image that is resized to the whole array: left, top, right, bottom."""
        if self.resize == "stretch":
            return 0, 0, width, height
        scale = max(self.width / width, self.height / height)
        left = max(0.0, (width - self.width / scale) / 2)  # rounding may give -1e-14, which Pillow refuses
        top = max(0.0, (height - self.height / scale) / 2)
        return left, top, width - left, height - top

    def _target_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The part of the array that the padded image covers: left, top, right, bottom."""
        scale = min(self.width / width, self.height / height)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self.width - across) // 2, (self.height - down) // 2
        return left, top, left + across, top + down


def open_picture(payload: bytes, mode: Mode, *, least: int | None = None, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode an image: upright (EXIF), 8 bits per channel, transparency on white unless `mode` is RGBA.

    Args:
        payload: Encoded image; of an animation, the first frame is used.
        mode: Channels of the result.
        least: Minimum side in pixels to which a JPEG may be reduced by decoding at 1/2, 1/4 or 1/8 of its size.
        max_pixels: Larger images are refused before decoding.

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
        if least is not None:  # affects JPEG only
            picture.draft("L" if mode == "L" else "RGB", (least, least))
        picture.load()
        transpose = _TRANSPOSE.get(_orientation(picture))
        picture = _to_mode(picture, mode)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its message contains a memory address
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # Pillow's parsers raise many types for invalid data
        raise DataError(f"the picture cannot be decoded: {_reason(error)}.") from error
    if transpose is None:
        return DecodedImage(picture, width, height)
    sides = (height, width) if transpose in _SWAPS_SIDES else (width, height)
    return DecodedImage(picture.transpose(transpose), *sides)


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # invalid EXIF raises many types, and the pixels are still usable
        return 1


def _to_mode(picture: Image.Image, mode: Mode) -> Image.Image:
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
