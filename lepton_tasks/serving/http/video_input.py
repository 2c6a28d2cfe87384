"""Video input: the request body, or a source that the operator has allowed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from starlette.requests import Request

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.errors import MediaTypeError, NotAllowedError, TooLargeError
from lepton_tasks.serving.http.payload import media_type

SOURCES_VARIABLE = "LEPTON_VIDEO_SOURCES"


@dataclasses.dataclass(frozen=True)
class VideoLimits:
    """What a video may cost."""

    body_bytes: int = 512 * 2**20
    """Of an upload; it lies on disk while it is looked at."""
    frames: int = 100_000
    """That are answered; then the summary says ``cut``."""
    pixels: int = 50_000_000
    """Of a frame."""
    at_once: int = 2
    """Videos that one process decodes at a time."""


class Sources:
    """Sources that the server may open itself.

    Args:
        text: Folders, and beginnings of addresses that end in ``/``, or whole addresses; parted by commas.
    """

    def __init__(self, text: str) -> None:
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        self._addresses = [entry for entry in entries if "://" in entry]
        self._folders = [Path(entry).expanduser().resolve() for entry in entries if "://" not in entry]

    def checked(self, source: str) -> str:
        """The path or address to open; raises `NotAllowedError` if it is not among them."""
        if "://" in source:
            allowed = ".." not in source and any(
                source.startswith(entry) if entry.endswith("/") else source == entry for entry in self._addresses
            )
            place = source
        else:
            path = Path(source).resolve()
            allowed = path.is_file() and any(path.is_relative_to(folder) for folder in self._folders)
            place = str(path)
        if not allowed:
            raise NotAllowedError(
                "this server does not open that source.",
                where="source",
                fix=f"Send the video as the body, or ask the server's operator to add it to {SOURCES_VARIABLE}.",
            )
        return place


def sources_of(variables: Mapping[str, str] | None = None) -> Sources:
    """What ``LEPTON_VIDEO_SOURCES`` lets the server open; nothing without it."""
    return Sources((os.environ if variables is None else variables).get(SOURCES_VARIABLE, ""))


async def received(request: Request, limits: VideoLimits, home: Path) -> IO[bytes]:
    """The body in a file without a name, which goes when it is closed or this process ends."""
    kind = media_type(request.headers.get("content-type"))
    if not (kind.startswith("video/") or kind in ("application/octet-stream", "image/gif", "")):
        raise MediaTypeError(
            f"the content type {kind!r} is not video.",
            fix="Send the file itself: curl -H 'content-type: video/mp4' --data-binary @film.mp4 URL",
        )
    upload = tempfile.TemporaryFile(dir=home)  # noqa: SIM115  # the reply closes it
    try:
        length = 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > limits.body_bytes:
                raise TooLargeError(f"the video is larger than {limits.body_bytes:,} bytes.", fix="Split it.")
            await asyncio.to_thread(upload.write, chunk)
        if not length:
            raise DataError("the body is empty.", fix="Send a video, or name a `source`.")
        await asyncio.to_thread(upload.flush)
        return upload
    except BaseException:
        upload.close()
        raise
