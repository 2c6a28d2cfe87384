"""Decode request bodies: form file, single raw sample, or JSON for the model's codec."""

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
class Held:
    """Bytes of request bodies in memory.

    Attributes:
        most: That may be there at a time; more are refused.
        now: That are there.
    """

    most: int = 1024 * 2**20
    now: int = 0

    def check(self) -> None:
        """Raise `UnavailableError` if there are too many."""
        if self.now > self.most:
            raise UnavailableError("too much is being sent at once.", fix="Try again later.")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost. A picture's pixels are limited by the codec."""

    body_bytes: int = 16 * 2**20
    samples: int = 256
    """In one request."""
    seconds: float = 30.0
    """A request that has waited longer is not begun."""
    read_seconds: float = 30.0
    """In which a request must have come in, with one more for every `read_bytes_a_second`."""
    read_bytes_a_second: int = 16 * 1024
    held: Held = dataclasses.field(default_factory=Held)
    """Of all requests together: those that come in slowly, and those that wait."""

    def too_large(self) -> TooLargeError:
        """What a longer body is refused with."""
        return TooLargeError(f"the body is larger than {self.body_bytes:,} bytes.", fix="Send less at a time.")


def media_type(text: str | None) -> str:
    """The media type that a header ``Content-Type`` names, in small letters and without parameters."""
    return (text or "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; raises `TooLargeError` as soon as it is longer than allowed, `UnavailableError` if all are."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise limits.too_large()
    parts: list[bytes] = []
    length = 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            limits.held.now += len(chunk)
            if length > limits.body_bytes:
                raise limits.too_large()
            limits.held.check()
            parts.append(chunk)
        return b"".join(parts)
    finally:
        limits.held.now -= length


async def read_samples(request: Request, limits: Limits, codec: Codec) -> list[bytes]:
    """The encoded samples of a request with a form, one raw sample, or JSON, in order.

    Raises:
        DataError: the body holds none, or is not of the announced form.
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
    """The files in the field ``file`` of a form."""

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
