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
_BUSY = (429, 503)
_LONGEST_WAIT, _FIRST_WAIT = 30.0, 0.25  # seconds

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
    """A reply as it came: status, headers (small letters) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclasses.dataclass(frozen=True)
class Call:
    """One request, and what to make of its reply.

    Attributes:
        method: Of HTTP.
        path: Below the server's address.
        params: After the question mark.
        headers: Besides the client's own.
        body: The bytes to send.
        files: Parts of a form instead, each called ``file``.
        read: Makes the result of a reply that is no error.
        retried: Whether a server that is busy is asked again.
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
        """What the caller gets.

        Raises:
            LeptonError: the kind of it says what went wrong, its text the way out.
        """
        if 200 <= answer.status < 300:
            return self.read(answer)
        raise error_of(answer)

    def wait(self, answer: Answer, attempt: int) -> float | None:
        """Seconds after which a busy server may be asked again, as it says itself; None if it may not."""
        if not self.retried or answer.status not in _BUSY:
            return None
        said = answer.headers.get("retry-after", "")
        seconds = float(said) if said.isdigit() else _FIRST_WAIT * 2**attempt
        return seconds if seconds <= _LONGEST_WAIT else None


READY = Call("GET", "/v2/health/ready", read=lambda answer: True, retried=False)
"""Whether a server is ready; by the protocol, the status says so, and there need be no body."""


def error_of(answer: Answer) -> LeptonError:
    """The error that a reply tells of."""
    try:
        value = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        value = None
    reason = value.get("error") if isinstance(value, dict) else None
    kind, fix = _ERRORS.get(answer.status, (UnavailableError if answer.status >= 500 else DataError, ""))
    return kind(str(reason or f"the server answered {answer.status}."), where=answer.url, fix=fix)


def json_of(answer: Answer) -> dict[str, Any]:
    """The object in a reply; raises `DataError` if there is none."""
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
    """A call with one sample or several.

    Args:
        name: The model.
        verb: E.g. ``predict``.
        sample: Bytes of a file, a `Path`, a picture (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a mapping of a
            row's columns, a table of rows (what has ``to_dict(orient="records")``), or a list of one kind of these.
        params: Further ones.
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
    """The bytes of a sample that is a file of its own; None of a text or a row."""
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
    """What a network gave.

    Attributes:
        outputs: Arrays by name, the first axis the batch.
        model: Who answered.
        version: Which version of it.
    """

    outputs: dict[str, np.ndarray]
    model: str
    version: str

    def __getitem__(self, name: str) -> np.ndarray:
        return self.outputs[name]


def feedback(name: str, outcomes: Mapping[str, str | float]) -> Call:
    """A call that tells what was right; see `Client.feedback`."""
    told = [{"id": id_, "label": label} for id_, label in outcomes.items()]
    body = orjson.dumps({"outcomes": told}, option=orjson.OPT_SERIALIZE_NUMPY)
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
    """The arrays of a reply, from JSON or from the bytes behind it."""
    said = answer.headers.get(_HEADER_LENGTH.lower())
    length = int(said) if said is not None and said.isdigit() else len(answer.body)
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
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._kind = ""

    def feed(self, line: str) -> dict[str, Any] | None:
        """The event that a line completes; raises `DataError` for one that tells of an error."""
        if line.startswith("event: "):
            self._kind = line.removeprefix("event: ")
        if not line.startswith("data: "):
            return None
        data = orjson.loads(line.removeprefix("data: "))
        if self._kind == "error":
            raise DataError(str(data.get("error")), where="video")
        return {"event": self._kind, **data}
