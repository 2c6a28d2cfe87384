"""How one sample is asked for, and the answer read, in each server's form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import numpy as np

from benchmarks.served.graphs import Model

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
_HEADER_LENGTH = "inference-header-content-length"
JSON = "application/json"
BYTES = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is posted."""

    body: bytes
    headers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Wire:
    """A form of requests and answers.

    Attributes:
        ask: A model and one sample -> what is posted.
        read: The model, headers (names in small letters) and body of the reply -> its row, float32 [columns].
    """

    ask: Callable[[Model, np.ndarray], Request]
    read: Callable[[Model, dict[str, str], bytes], np.ndarray]


def _tensor(model: Model, sample: np.ndarray) -> dict[str, Any]:
    return {"name": model.input, "shape": [1, *model.shape], "datatype": _DATATYPES[str(sample.dtype)]}


def _json(value: Any) -> Request:
    return Request(json.dumps(value, separators=(",", ":")).encode(), {"content-type": JSON})


def _ask_v2(model: Model, sample: np.ndarray) -> Request:
    return _json({"inputs": [{**_tensor(model, sample), "data": sample.ravel().tolist()}]})


def _read_v2(model: Model, headers: dict[str, str], body: bytes) -> np.ndarray:
    output = json.loads(body)["outputs"][0]
    assert output["name"] == model.output, output["name"]
    return np.array(output["data"], np.float32)


def _ask_binary(model: Model, sample: np.ndarray) -> Request:
    raw = sample.tobytes()
    tensor = {**_tensor(model, sample), "parameters": {"binary_data_size": len(raw)}}
    told = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(told, separators=(",", ":")).encode()
    return Request(header + raw, {"content-type": BYTES, _HEADER_LENGTH: str(len(header))})


def _read_binary(model: Model, headers: dict[str, str], body: bytes) -> np.ndarray:
    length = int(headers[_HEADER_LENGTH])
    output = json.loads(body[:length])["outputs"][0]
    assert output["parameters"]["binary_data_size"] == len(body) - length
    return np.frombuffer(body[length:], np.float32)


WIRES = {
    "v2": Wire(_ask_v2, _read_v2),
    "v2 binary": Wire(_ask_binary, _read_binary),
    "raw": Wire(
        lambda model, sample: Request(sample.tobytes(), {"content-type": BYTES}),
        lambda model, headers, body: np.frombuffer(body, np.float32),
    ),
    "bentoml": Wire(
        lambda model, sample: _json({"values": sample[np.newaxis].tolist()}),
        lambda model, headers, body: np.array(json.loads(body)[0], np.float32),
    ),
    "mlflow": Wire(
        lambda model, sample: _json({"inputs": {model.input: sample[np.newaxis].tolist()}}),
        lambda model, headers, body: np.array(json.loads(body)["predictions"][model.output][0], np.float32),
    ),
}


def ask(port: int, path: str, request: Request | None, *, timeout: float = 30) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the reply to `request`, or to a plain GET.

    Raises:
        OSError: nobody answers.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if request is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, request.body, request.headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()
