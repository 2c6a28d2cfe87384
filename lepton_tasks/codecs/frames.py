"""Sample frames from a video, identically in training and serving. Needs OpenCV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_RATE = 25.0  # a file that does not tell its rate plays at some rate, too


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: In the video, from 0.
        time_s: Seconds from its start.
        pixels: uint8 [H, W, 3] in OpenCV's order (blue, green, red), or how far they are from those of the frame taken
            before; None if it cannot be decoded.
    """

    number: int
    time_s: float
    pixels: np.ndarray | None


def frames_of(path: str, frames_per_second: float, *, differences: bool = False) -> Iterator[Frame]:
    """The first frame of each slot of 1 / `frames_per_second` seconds, in the order of time; none if it is no video.

    Args:
        path: A file, or an address that FFmpeg reads.
        frames_per_second: At most all there are.
        differences: Give what moved: the distance of each pixel from the frame taken before, of all but the first.
    """
    frames = _taken(path, frames_per_second)
    return _differences(frames) if differences else frames


def _differences(frames: Iterator[Frame]) -> Iterator[Frame]:
    import cv2

    for before, now in itertools.pairwise(frames):
        moved = None
        if before.pixels is not None and now.pixels is not None:
            moved = np.asarray(cv2.absdiff(now.pixels, before.pixels))
        yield now._replace(pixels=moved)


def _taken(path: str, frames_per_second: float) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    taken = -1
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or _RATE
        number = 0
        while capture.grab():
            if (slot := int(number * frames_per_second / rate + 1e-9)) > taken:
                taken = slot
                whole, pixels = capture.retrieve()
                yield Frame(number, number / rate, np.asarray(pixels) if whole else None)
            number += 1
    finally:
        capture.release()
