"""Requests and replies of the Python clients, independent of the transport."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from PIL import Image

from lepton_tasks.core.errors import DataError, LeptonError, UnavailableError
from lepton_tasks.serving.errors import (
    ConflictError,
    DeadlineError,
    ForbiddenError,
    MediaTypeError,
    NotAllowedError,
    TooLargeError,
    TooManyError,
    UnknownModelError,
)

_HEADER_LENGTH = "Inference-Header-Content-Length"
_JSON, _BYTES = {"content-type": "application/json"}, {"content-type": "application/octet-stream"}
_DTYPES = {"BOOL": np.dtype(bool)} | {
    f"{word}{8 * size}": np.dtype(f"{kind}{size}")
    for word, kind, sizes in (("UINT", "u", (1, 2, 4, 8)), ("INT", "i", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_RETRIED_STATUSES = (429, 503)
_MAX_WAIT, _FIRST_WAIT = 30.0, 0.25  # seconds

_ERRORS: dict[int, tuple[type[LeptonError], str]] = {
    401: (ForbiddenError, "Give the client an api_key that is valid for this model."),
    403: (NotAllowedError, "Give the client an api_key that is valid for this model."),
    404: (UnknownModelError, "`client.models()` lists what is served."),
    409: (ConflictError, ""),
    413: (TooLargeError, "Send less at a time."),
    415: (
        MediaTypeError,
        "A file is given as a pathlib.Path, a text as a str; `client.model(name)` says what it takes.",
    ),
    429: (TooManyError, "Send fewer at a time, or allow more `retries`."),
    503: (UnavailableError, "Try again later, or allow more `retries`."),
    504: (DeadlineError, "Allow a longer `timeout`, or send less at a time."),
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP response: status, headers (lower-case names) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclasses.dataclass(frozen=True)
class Call:
    """One request, and how its response is converted.

    Attributes:
        method: HTTP method.
        path: Relative to the server's URL.
        params: Query parameters.
        headers: In addition to those of the client.
        body: Request body.
        files: Form parts named ``file``, instead of a body.
        read: Converts a successful response to the result.
        retried: Whether to retry if the server is busy.
    """

    method: str
    path: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    read: Callable[[Answer], Any] = lambda answer: json_of(answer)
    retried: bool = True

    def result(self, answer: Answer) -> Any:
        """The result of the call.

        Raises:
            LeptonError: the server returned an error; the class depends on the status.
        """
        if 200 <= answer.status < 300:
            return self.read(answer)
        raise error_of(answer)

    def wait(self, answer: Answer, attempt: int) -> float | None:
        """Seconds to wait before a retry, from ``Retry-After`` or exponential backoff; None for no retry."""
        if not self.retried or answer.status not in _RETRIED_STATUSES:
            return None
        retry_after = answer.headers.get("retry-after", "")
        seconds = float(retry_after) if retry_after.isdigit() else _FIRST_WAIT * 2**attempt
        return seconds if seconds <= _MAX_WAIT else None


READY = Call("GET", "/v2/health/ready", read=lambda answer: True, retried=False)
"""Whether a server is ready; by the protocol, the status says so, and there need be no body."""


def error_of(answer: Answer) -> LeptonError:
    """The exception for an error response."""
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    reason = value.get("error") if isinstance(value, dict) else None
    kind, fix = _ERRORS.get(answer.status, (UnavailableError if answer.status >= 500 else DataError, ""))
    return kind(str(reason or f"the server answered {answer.status}."), where=answer.url, fix=fix)


def json_of(answer: Answer) -> dict[str, Any]:
    """The JSON object in a response; raises `DataError` if there is none."""
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise DataError(
            "the reply is not a JSON object.", where=answer.url, fix="Is this the address of a Lepton server?"
        )
    return value


def path_of(name: str, *parts: str) -> str:
    """The path of a model below ``/v1``."""
    return "/".join(("/v1/models", quote(name, safe=""), *parts))


def predict(name: str, sample: Any, *, version: str | None, key: str | None) -> Call:
    """A call for predictions; see `Client.predict`."""
    of = ("versions", quote(version, safe="")) if version is not None else ()
    call = samples(name, "/".join((*of, "predict")), sample)
    return call if key is None else dataclasses.replace(call, headers={**call.headers, "lepton-key": key})


def samples(name: str, verb: str, sample: Any, params: Mapping[str, Any] | None = None) -> Call:
    """A call with one or several samples.

    Args:
        name: The model.
        verb: E.g. ``predict``.
        sample: Bytes of a file, a `Path`, an image (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a mapping of a
            row's columns, a table (with ``to_dict(orient="records")``), or a list of one kind of these.
        params: Query parameters.
    """
    path, given = path_of(name, verb), dict(params or {})
    if hasattr(sample, "to_dict") and hasattr(sample, "columns"):
        sample = sample.to_dict(orient="records")
    several = isinstance(sample, list | tuple)
    items: Sequence[Any] = sample if several else [sample]
    payloads = [payload_of(item) for item in items]
    if not items:
        raise DataError("there are no samples.", where=name)
    if all(payload is not None for payload in payloads):
        parts = [("file", ("sample", payload or b"")) for payload in payloads]
        if several:
            return Call("POST", path, given, files=parts)
        return Call("POST", path, given, dict(_BYTES), parts[0][1][1])
    if any(payload is not None for payload in payloads):
        raise DataError("bytes, files and pictures do not go together with texts and rows.", where=name)
    body = orjson.dumps({"instances": items}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call("POST", path, given, dict(_JSON), body)


def payload_of(item: Any) -> bytes | None:
    """The bytes of a binary sample; None for a text or a row."""
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, Path):
        try:
            return item.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}.", where=str(item)) from error
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3):
            shape = f"{item.dtype} {list(item.shape)}"
            raise DataError(f"the array is not an image: {shape}.", fix="Pictures are uint8 [H, W] or [H, W, C].")
        item = Image.fromarray(item.squeeze(-1) if item.shape[2:] == (1,) else item)
    if isinstance(item, Image.Image):
        stream = io.BytesIO()
        item.save(stream, "PNG")
        return stream.getvalue()
    return None


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Outputs of a network.

    Attributes:
        outputs: Arrays by name; the first axis is the batch.
        model: Name of the model.
        version: Version that computed them.
    """

    outputs: dict[str, np.ndarray]
    model: str
    version: str

    def __getitem__(self, name: str) -> np.ndarray:
        return self.outputs[name]


def feedback(name: str, outcomes: Mapping[str, str | float]) -> Call:
    """A call that reports true labels; see `Client.feedback`."""
    items = [{"id": id_, "label": label} for id_, label in outcomes.items()]
    body = orjson.dumps({"outcomes": items}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call("POST", path_of(name, "feedback"), headers=dict(_JSON), body=body, read=lambda a: json_of(a)["taken"])


def infer(
    name: str, inputs: Mapping[str, np.ndarray], *, outputs: Sequence[str], version: str | None, binary: bool
) -> Call:
    """A call of the Open Inference Protocol; see `Client.infer`."""
    path = f"/v2/models/{quote(name, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "") + "/infer"
    tensors, raw = [], []
    for key, value in inputs.items():
        array = np.ascontiguousarray(value)
        if (datatype := _DATATYPES.get(array.dtype)) is None:
            known = ", ".join(map(str, _DATATYPES))
            raise DataError(f"the dtype {array.dtype} is none of {known}.", where=key, fix="Cast it with `astype`.")
        tensor: dict[str, Any] = {"name": key, "shape": array.shape, "datatype": datatype}
        if binary:
            raw.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    request: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": binary}}
    if outputs:
        request["outputs"] = [{"name": wanted} for wanted in outputs]
    head = orjson.dumps(request)
    headers = {**_BYTES, _HEADER_LENGTH: str(len(head))} if binary else dict(_JSON)
    return Call("POST", path, headers=headers, body=b"".join((head, *raw)), read=inferred)


def inferred(answer: Answer) -> Inferred:
    """The arrays of a response, from JSON or the binary data after it."""
    header = answer.headers.get(_HEADER_LENGTH.lower())
    length = int(header) if header is not None and header.isdigit() else len(answer.body)
    reply = json_of(dataclasses.replace(answer, body=answer.body[:length]))
    found: dict[str, np.ndarray] = {}
    try:
        for tensor in reply["outputs"]:
            dtype, shape = _DTYPES[tensor["datatype"]], tuple(tensor["shape"])
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = np.array(tensor["data"], dtype)
            else:
                array = np.frombuffer(answer.body, dtype.newbyteorder("<"), math.prod(shape), length).astype(dtype)
                length += size
            found[tensor["name"]] = array.reshape(shape)
        return Inferred(found, reply["model_name"], reply.get("model_version", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the reply holds no tensors as the protocol has them: {error!r}.", where=answer.url) from error


def video(name: str, video: Path | bytes | str, *, fps: float, differences: bool) -> Call:
    """A call for the events of a video; see `Client.video`."""
    given = {"fps": fps, "source": video if isinstance(video, str) else None}
    given |= {"differences": "true"} if differences else {}
    return Call("POST", path_of(name, "video"), given, dict(_BYTES), video if isinstance(video, bytes) else None)


class Events:
    """Parser of server-sent events."""

    def __init__(self) -> None:
        self._kind = ""

    def feed(self, line: str) -> dict[str, Any] | None:
        """The event that a line completes, if any; raises `DataError` for an error event."""
        if line.startswith("event: "):
            self._kind = line.removeprefix("event: ")
        if not line.startswith("data: "):
            return None
        data = orjson.loads(line.removeprefix("data: "))
        if self._kind == "error":
            raise DataError(str(data.get("error")), where="video")
        return {"event": self._kind, **data}
