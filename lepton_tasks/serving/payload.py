"""Request bodies -> samples: a file field, a raw picture, or base64 in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.errors import MediaTypeError, TooLargeError

_SHAPES = 'Send {"image": "<base64>"} or {"instances": [{"image": "<base64>"}, ...]}.'
_BIG_JSON_BYTES = 256 * 1024  # about a millisecond of parsing: beyond it, not in the event loop


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may cost. A picture's pixels are limited by the codec."""

    body_bytes: int = 16 * 2**20
    samples: int = 256


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body; raises `TooLargeError` as soon as it is longer than allowed."""
    too_large = TooLargeError(f"the body is larger than {limits.body_bytes:,} bytes.", fix="Send a smaller picture.")
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


async def read_samples(request: Request, limits: Limits) -> list[bytes]:
    """The encoded samples of a predict request, in order.

    Raises:
        DataError: the body holds none, or is not of the announced form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        samples = await _files(request, await read_body(request, limits), limits)
    elif kind == "application/json":
        body = await read_body(request, limits)
        samples = await asyncio.to_thread(_instances, body) if len(body) > _BIG_JSON_BYTES else _instances(body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        samples = [await read_body(request, limits)]
    else:
        raise MediaTypeError(
            f"the content type {kind!r} is not read here.",
            fix="Send a form with the field 'file', a picture as image/png or image/jpeg, or application/json.",
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


def _instances(body: bytes) -> list[bytes]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise DataError(f"the body is a JSON {type(value).__name__}, not an object.", fix=_SHAPES)
    if "instances" not in value:
        return [_image(value, "image")]
    instances = value["instances"]
    if not isinstance(instances, list) or not instances:
        raise DataError("'instances' is not a list with at least one object.", fix=_SHAPES)
    return [_image(instance, f"instances[{i}].image") for i, instance in enumerate(instances)]


def _image(instance: Any, where: str) -> bytes:
    text = instance.get("image") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        raise DataError("a base64 string is missing.", where=where, fix=_SHAPES)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"not base64: {error}.", where=where) from error
