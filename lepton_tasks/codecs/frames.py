"""Sample frames from a video, identically in training and serving. Requires OpenCV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_DEFAULT_RATE = 25.0  # frames per second, for files without a frame rate


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: Index in the video, from 0.
        time_s: Seconds from the start.
        pixels: uint8 [H, W, 3] in OpenCV's channel order (blue, green, red), or absolute differences from the previous
            sampled frame; None if it cannot be decoded.
    """

    number: int
    time_s: float
    pixels: np.ndarray | None


def frames_of(path: str, frames_per_second: float, *, differences: bool = False) -> Iterator[Frame]:
    """The first frame of each interval of 1 / `frames_per_second` seconds, in order; none if it is not a video.

    Args:
        path: A file or URL that FFmpeg reads.
        frames_per_second: Sampling rate; at most the video's frame rate has an effect.
        differences: Yield absolute pixel differences from the previous sampled frame instead, without the first frame.
    """
    frames = _sampled(path, frames_per_second)
    return _differences(frames) if differences else frames


def _differences(frames: Iterator[Frame]) -> Iterator[Frame]:
    import cv2

    for previous, current in itertools.pairwise(frames):
        difference = None
        if previous.pixels is not None and current.pixels is not None:
            difference = np.asarray(cv2.absdiff(current.pixels, previous.pixels))
        yield current._replace(pixels=difference)


def _sampled(path: str, frames_per_second: float) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    last_slot = -1
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_RATE
        number = 0
        while capture.grab():
            if (slot := int(number * frames_per_second / rate + 1e-9)) > last_slot:
                last_slot = slot
                decoded, pixels = capture.retrieve()
                yield Frame(number, number / rate, np.asarray(pixels) if decoded else None)
            number += 1
    finally:
        capture.release()
