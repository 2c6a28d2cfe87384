"""Source of video frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pydantic

from lepton_tasks.codecs.frames import frames_of
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.files import LocalFiles
from lepton_tasks.data.rows import in_batches, source_schema

_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".ts", ".wmv")
_QUALITY = 95  # of JPEG: the loss is smaller than that of the video codec


class Video:
    """One unlabelled row per video frame, in file and time order.

    A file without decodable frames becomes a row with a fault, for `clean` to reject.

    Args:
        path: A folder of video files, or one file; relative to `data_root`.
        data_root: Set by the environment.
        frames_per_second: Sampling rate, at most the video's frame rate.
        encode: ``jpeg`` (quality 95) or ``png`` (lossless, 5 to 10 times as large).
        differences: Use absolute differences to the previous sampled frame instead of frames. The server does the same
            with ``/video?differences=true``.
    """

    def __init__(
        self,
        path: str,
        data_root: Path,
        frames_per_second: Annotated[float, pydantic.Field(gt=0)] = 1.0,
        encode: Literal["jpeg", "png"] = "jpeg",
        differences: bool = False,
    ) -> None:
        place = Path(data_root, path).expanduser()
        self._files = LocalFiles(place.parent if place.is_file() else place)
        self._only = place.name if place.is_file() else None
        self._rate, self._encode, self._differences = frames_per_second, encode, differences

    def state(self) -> dict[str, Any]:
        """Changes with any video's name, size or modification time."""
        names = set(self._names())
        stamps = [stamp for stamp in self._files.state()["files"] if stamp[0] in names]
        return {"folder": self._files.address, "files": digest_of(stamps)}

    def read(self) -> Iterator[pa.Table]:
        """Rows with ``video``, ``frame`` (counted from 0), ``time_s`` and ``fault``.

        Raises:
            DataError: the folder is missing or contains no video.
        """
        if not (names := self._names()):
            raise DataError(
                f"no video here ({', '.join(_SUFFIXES)}).",
                where=self._files.address,
                fix="Give a folder of video files, or one of them, in `data.source.params.path`.",
            )
        rows = (row for name in names for row in self._frames(name))
        yield from in_batches(rows, source_schema("video", "frame", "time_s", "fault"))

    def describe(self) -> dict[str, Any]:
        """The folder and its videos."""
        return {"folder": self._files.address, "videos": self._names(), "frames_per_second": self._rate}

    def _names(self) -> list[str]:
        names = [name for name in self._files.names() if name.lower().endswith(_SUFFIXES)]
        return names if self._only is None else [name for name in names if name == self._only]

    def _frames(self, name: str) -> Iterator[dict[str, Any]]:
        path = self._files.uri(name)
        row = {"sample_id": name, "uri": path, "data": None, "label": None, "video": name}
        any_frame = False
        for frame in frames_of(path, self._rate, differences=self._differences):
            any_frame = True
            data = self._encoded(frame.pixels)
            fault = None if data else "the frame cannot be decoded"
            mark = {"sample_id": f"{name}#{frame.number:07d}", "uri": f"{path}#frame={frame.number}", "fault": fault}
            yield row | mark | {"data": data, "frame": frame.number, "time_s": frame.time_s}
        if not any_frame:
            what = "no two frames" if self._differences else "no frame"
            yield row | {"fault": f"{what} of the video can be decoded"}

    def _encoded(self, pixels: np.ndarray | None) -> bytes | None:
        import cv2

        if pixels is None:
            return None
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if self._encode == "jpeg" else []
        done, data = cv2.imencode(f".{self._encode}", pixels, options)
        return data.tobytes() if done else None
