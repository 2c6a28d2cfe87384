"""Cleaning steps for unreadable, blank and small images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
import pydantic


class Undecodable:
    """Reject files that are not complete, readable images."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The decoder's message."""
        reasons: list[str | None] = probes["error"].to_pylist()
        return reasons


@dataclasses.dataclass(frozen=True)
class TooSmall:
    """Reject images below a minimum width or height.

    Args:
        min_pixels: Smallest allowed side, in pixels.
    """

    min_pixels: Annotated[int, pydantic.Field(ge=1)] = 8

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The size and the limit. Undecodable images pass."""
        sizes = zip(probes["width"].to_pylist(), probes["height"].to_pylist(), strict=True)
        return [
            f"{width} x {height} pixels, less than {self.min_pixels} on a side"
            if width is not None and min(width, height) < self.min_pixels
            else None
            for width, height in sizes
        ]


@dataclasses.dataclass(frozen=True)
class Blank:
    """Reject images of a single colour, or nearly.

    Args:
        min_contrast: Smallest allowed standard deviation of the resized image's values in [0, 1]. A page with a single
            word has about 0.05.
    """

    min_contrast: Annotated[float, pydantic.Field(ge=0, lt=0.5)] = 0.01

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The contrast and the limit. Undecodable images pass."""
        return [
            f"blank: contrast {contrast:.4f}, less than {self.min_contrast:g}"
            if contrast is not None and contrast < self.min_contrast
            else None
            for contrast in probes["contrast"].to_pylist()
        ]
