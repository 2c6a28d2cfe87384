"""Read request bodies within limits: form file, single raw sample, or JSON for the model's codec."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.serving.errors import TooLargeError
from lepton_tasks.serving.inference.samples import check_count, instances


@dataclasses.dataclass
class BufferedBytes:
    """Bytes of all request bodies in memory.

    Attributes:
        limit: Maximum; further bodies are refused.
        current: Current number.
    """

    limit: int = 1024 * 2**20
    current: int = 0

    def check(self) -> None:
        """Raise `UnavailableError` above the limit."""
        if self.current > self.limit:
            raise UnavailableError("too much is being sent at once.", fix="Try again later.")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits per request. The codec limits the pixels of an image."""

    body_bytes: int = 16 * 2**20
    samples: int = 256
    """In one request."""
    seconds: float = 30.0
    """Deadline for starting a queued request."""
    read_seconds: float = 30.0
    """For receiving a request, plus one for every `read_bytes_a_second` received."""
    read_bytes_a_second: int = 16 * 1024
    buffered: BufferedBytes = dataclasses.field(default_factory=BufferedBytes)
    """Shared by all requests that are being received or queued."""

    def too_large(self) -> TooLargeError:
        """The error for a body above `body_bytes`."""
        return TooLargeError(f"the body is larger than {self.body_bytes:,} bytes.", fix="Send less at a time.")


def media_type(text: str | None) -> str:
    """The media type in a ``Content-Type`` header, lower-case and without parameters."""
    return (text or "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; raises `TooLargeError` above `body_bytes`, `UnavailableError` if too much is buffered."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise limits.too_large()
    parts: list[bytes] = []
    length = 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            limits.buffered.current += len(chunk)
            if length > limits.body_bytes:
                raise limits.too_large()
            limits.buffered.check()
            parts.append(chunk)
        return b"".join(parts)
    finally:
        limits.buffered.current -= length


async def read_samples(request: Request, limits: Limits, codec: Codec) -> list[bytes]:
    """The encoded samples of a form, a raw sample or JSON, in order.

    Raises:
        DataError: the body contains no sample or does not match its content type.
    """
    kind = media_type(request.headers.get("content-type"))
    body = await read_body(request, limits)
    if kind == "multipart/form-data":
        samples = await read_files(request, body, limits)
    else:
        samples = await asyncio.to_thread(instances, body, codec) if kind == "application/json" else [body]
    check_count(samples, limits.samples)
    return samples


async def read_files(request: Request, body: bytes, limits: Limits) -> list[bytes]:
    """The files in the form field ``file``."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=limits.samples, max_fields=16).parse()
    except MultiPartException as error:
        raise DataError(f"the form cannot be read: {error.message}.") from error
    try:
        files = [await part.read() for part in form.getlist("file") if isinstance(part, UploadFile)]
    finally:
        await form.close()
    if not files:
        raise DataError("the form has no file in the field 'file'.", fix="For example: curl -F file=@picture.png URL")
    return files
