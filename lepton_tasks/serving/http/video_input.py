"""Video input: the request body, or a source that the operator allows."""

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
    """Limits per video."""

    body_bytes: int = 512 * 2**20
    """Of an upload, which is kept on disk while it is processed."""
    frames: int = 100_000
    """Processed frames; beyond it, the summary has ``cut`` set."""
    pixels: int = 50_000_000
    """Per frame."""
    concurrent: int = 2
    """Videos that one process decodes at a time."""


class Sources:
    """Allow-list of sources that the server may open.

    Args:
        text: Comma-separated folders, URL prefixes that end in ``/``, and full URLs.
    """

    def __init__(self, text: str) -> None:
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        self._addresses = [entry for entry in entries if "://" in entry]
        self._folders = [Path(entry).expanduser().resolve() for entry in entries if "://" not in entry]

    def checked(self, source: str) -> str:
        """The path or URL to open; raises `NotAllowedError` if it is not allowed."""
        if "://" in source:
            allowed = ".." not in source and any(
                source.startswith(entry) if entry.endswith("/") else source == entry for entry in self._addresses
            )
            location = source
        else:
            path = Path(source).resolve()
            allowed = path.is_file() and any(path.is_relative_to(folder) for folder in self._folders)
            location = str(path)
        if not allowed:
            raise NotAllowedError(
                "this server does not open that source.",
                where="source",
                fix=f"Send the video as the body, or ask the server's operator to add it to {SOURCES_VARIABLE}.",
            )
        return location


def sources_of(variables: Mapping[str, str] | None = None) -> Sources:
    """The allow-list in ``LEPTON_VIDEO_SOURCES``; empty by default."""
    return Sources((os.environ if variables is None else variables).get(SOURCES_VARIABLE, ""))


async def save_upload(request: Request, limits: VideoLimits, home: Path) -> IO[bytes]:
    """The body as an anonymous temporary file, deleted when it is closed or this process ends."""
    kind = media_type(request.headers.get("content-type"))
    if not (kind.startswith("video/") or kind in ("application/octet-stream", "image/gif", "")):
        raise MediaTypeError(
            f"the content type {kind!r} is not video.",
            fix="Send the file itself: curl -H 'content-type: video/mp4' --data-binary @film.mp4 URL",
        )
    upload = tempfile.TemporaryFile(dir=home)  # noqa: SIM115  # closed by the response
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
