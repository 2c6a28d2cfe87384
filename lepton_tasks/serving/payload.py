"""Request bodies -> samples: a file field, one raw sample, or JSON as the model's codec reads it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.serving.errors import MediaTypeError, TooLargeError

_BIG_JSON_BYTES = 256 * 1024  # about a millisecond of parsing: beyond it, not in the event loop


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost. A picture's pixels are limited by the codec."""

    body_bytes: int = 16 * 2**20
    samples: int = 256


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; raises `TooLargeError` as soon as it is longer than allowed."""
    too_large = TooLargeError(f"the body is larger than {limits.body_bytes:,} bytes.", fix="Send less at a time.")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise too_large
    parts: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limits.body_bytes:
            raise too_large
        parts.append(chunk)
    return b"".join(parts)


async def read_samples(request: Request, limits: Limits, codec: Codec) -> list[bytes]:
    """The encoded samples of a predict request, in order.

    Raises:
        DataError: the body holds none, or is not of the announced form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        samples = await _files(request, await read_body(request, limits), limits)
    elif kind == "application/json":
        body = await read_body(request, limits)
        big = len(body) > _BIG_JSON_BYTES
        samples = await asyncio.to_thread(_instances, body, codec) if big else _instances(body, codec)
    elif kind == "application/octet-stream" or kind.partition("/")[0] == codec.media_type.partition("/")[0]:
        samples = [await read_body(request, limits)]
    else:
        raise MediaTypeError(
            f"the content type {kind!r} is not read here.",
            fix=f"Send {codec.media_type}, a form with the field 'file', or application/json.",
        )
    if len(samples) > limits.samples:
        raise TooLargeError(f"{len(samples)} samples in one request; at most {limits.samples} are taken.")
    return samples


async def _files(request: Request, body: bytes, limits: Limits) -> list[bytes]:
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


def _instances(body: bytes, codec: Codec) -> list[bytes]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}.") from error
    if not isinstance(value, dict) or "instances" not in value:
        return [codec.payload(value)]
    instances = value["instances"]
    if not isinstance(instances, list) or not instances:
        raise DataError("'instances' is not a list with at least one sample.", fix='Send {"instances": [...]}.')
    samples = []
    for i, instance in enumerate(instances):
        try:
            samples.append(codec.payload(instance))
        except DataError as error:
            raise DataError(error.what, where=f"instances[{i}].{error.where}", fix=error.fix) from error
    return samples
