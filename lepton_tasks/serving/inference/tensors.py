"""Open Inference Protocol requests: tensors as JSON, or binary after a JSON header.

Source: https://github.com/kserve/open-inference-protocol (REST, version 2) and its binary tensor data extension,
https://docs.nvidia.com/deeplearning/triton-inference-server, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import array
import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.inference.batching import Outputs
from lepton_tasks.serving.package import Package, TensorSpec

_LONGEST_HEADER, _MOST_HEADERS = 1024, 256  # that are remembered, of one package
_SIZES = {int}  # what sizes may be; true and false, which count as 1 and 0, may not
_NUMBERS = {int, float, bool}

_QUICK: Mapping[str, Callable[[list[Any]], Any]] = {
    "uint8": bytes,
    **{name: functools.partial(array.array, code) for name, code in (("int32", "i"), ("int64", "q"))},
    **{name: functools.partial(array.array, code) for name, code in (("float32", "f"), ("float64", "d"))},
}
"""What makes of numbers, if all fit, the bytes of this type: in a quarter of the time that NumPy takes."""

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


OF_DTYPES = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
"""The same by NumPy's dtypes; their names take NumPy five microseconds."""


class _Asks(NamedTuple):
    """What an infer request asks for, apart from its tensor: its id, the outputs, and which of them as bytes."""

    id: str | None
    wanted: list[tuple[str, bool]]


class _Known(NamedTuple):
    """What a header said that was read before; `size` are the bytes of the whole body."""

    asks: _Asks
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int


class InferJob:
    """One infer request; parsing and replying happen in the worker thread, too.

    Args:
        body: The body: JSON, and behind it the bytes of the input if `header` is given.
        model: Name for the reply.
        version: Version for the reply.
        most: How many rows are allowed.
        header: How many bytes of the body are JSON; all without it.

    Attributes:
        header_length: How many bytes of the reply are JSON, if there are others; set with the answer.
        seen: For the request log.
    """

    def __init__(self, body: bytes, *, model: str, version: str, most: int, header: int | None = None) -> None:
        self._body, self._most, self._header = body, most, header
        self._model, self._version = model, version
        self._asks = _Asks(None, [])
        self.header_length: int | None = None
        self.seen: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The input tensor; raises `DataError` naming what does not fit the model."""
        told: dict[str, Any] = {"bytes": len(self._body)}
        self.seen.append(told)
        values = self._json(package) if self._header is None else self._binary(package, self._header)
        told["rows"] = len(values)
        return [values]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The reply's body."""
        tensors, raw = [], []
        for name, binary in self._asks.wanted:
            value = outputs[0][name]
            tensor: dict[str, Any] = {"name": name, "shape": value.shape, "datatype": OF_DTYPES[value.dtype]}
            if binary:
                raw.append(little_end_first(value))
                tensor["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                tensor["data"] = np.ascontiguousarray(value).ravel()
            tensors.append(tensor)
        reply: dict[str, Any] = {"model_name": self._model, "model_version": self._version, "outputs": tensors}
        if self._asks.id is not None:
            reply["id"] = self._asks.id
        body = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return body
        self.header_length = len(body)
        return b"".join((body, *raw))

    def _json(self, package: Package) -> np.ndarray:
        """The tensor of a request that is JSON alone."""
        self._asks, tensor = _asks(self._body, package)
        spec = package.spec.inputs[0]
        return checked(_values(tensor, spec, None), tensor.get("shape"), tensor.get("datatype"), spec, self._most)

    def _binary(self, package: Package, length: int) -> np.ndarray:
        """The tensor behind a header of so many bytes. Most headers have come before: they are not read again."""
        header, spec = self._body[:length], package.spec.inputs[0]
        known: _Known | None = package.headers.get(header)
        if known is not None and len(self._body) == known.size:
            self._asks = known.asks
            return np.frombuffer(self._body, known.dtype, offset=length).reshape(known.shape)
        if length > len(self._body):
            raise DataError(f"the header is said to have {length} bytes; the body has {len(self._body)}.")
        self._asks, tensor = _asks(header, package)
        raw = _values(tensor, spec, memoryview(self._body)[length:])
        values = checked(raw, tensor.get("shape"), tensor.get("datatype"), spec, self._most)
        if "data" not in tensor and length <= _LONGEST_HEADER and sys.byteorder == "little":
            if len(package.headers) >= _MOST_HEADERS:
                package.headers.clear()
            package.headers[header] = _Known(self._asks, values.dtype, values.shape, len(self._body))
        return values


def _asks(text: bytes, package: Package) -> tuple[_Asks, dict[str, Any]]:
    """What a request's JSON asks for, and the tensor it tells of."""
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}.") from error
    if not isinstance(request, dict):
        raise DataError("the body is not a JSON object.", fix="See /docs for its form.")
    if (key := request.get("id")) is not None and not isinstance(key, str):
        raise DataError("'id' is not a string.")
    asks = _Asks(key, _wanted_outputs(request, package))
    return asks, _only_input(request.get("inputs"), package.spec.inputs[0])


def _wanted_outputs(request: Mapping[str, Any], package: Package) -> list[tuple[str, bool]]:
    """The outputs asked for, and whether each is wanted as bytes."""
    asked = request.get("outputs")
    default = _flag(request, "binary_data_output")
    names = package.output_names
    if not asked:
        return [(name, default) for name in names]
    if not isinstance(asked, list):
        raise DataError("'outputs' is not a list.")
    wanted = []
    for item in asked:
        name = item.get("name") if isinstance(item, dict) else item
        if name not in names:
            raise DataError(f"no output {name!r}.", where="outputs", fix=f"Known: {', '.join(names)}.")
        wanted.append((name, _flag(item, "binary_data", default) if isinstance(item, dict) else default))
    return wanted


def _flag(value: Mapping[str, Any], name: str, default: bool = False) -> bool:
    parameters = value.get("parameters")
    if parameters is None:
        return default
    flag = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(flag, bool):
        raise DataError(f"{flag!r} is neither true nor false.", where=f"parameters.{name}")
    return flag


def _only_input(inputs: Any, spec: TensorSpec) -> dict[str, Any]:
    fix = f"Send one input named {spec.name!r}."
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise DataError("'inputs' is not a list of one tensor.", fix=fix)
    if inputs[0].get("name") != spec.name:
        raise DataError(f"no input {inputs[0].get('name')!r}.", where="inputs", fix=fix)
    only: dict[str, Any] = inputs[0]
    return only


def checked(values: np.ndarray, shape: Any, datatype: Any, spec: TensorSpec, most: int) -> np.ndarray:
    """The values in the shape they are said to have, if that is one the model takes.

    Args:
        values: All of them, already of the model's dtype.
        shape: What came as the shape.
        datatype: What came as the datatype.
        spec: What the model takes.
        most: How many rows are allowed.
    """
    at = f"inputs.{spec.name}"
    if datatype != DATATYPES[spec.dtype]:
        raise DataError(f"the datatype is {datatype!r}, not {DATATYPES[spec.dtype]}.", where=at)
    if not isinstance(shape, list) or not {*map(type, shape)} <= _SIZES or (shape and min(shape) < 0):
        raise DataError("'shape' is not a list of sizes.", where=at)
    fits = len(shape) == len(spec.shape) and (
        shape[1:] == list(spec.shape[1:])
        or all(want in (None, size) for want, size in zip(spec.shape, shape, strict=True))
    )
    if not fits:
        raise DataError(f"the shape is {shape}, not {open_shape(spec)} (-1: any size).", where=at)
    if values.size != math.prod(shape):
        raise DataError(f"{values.size} values came; the shape {shape} asks for {math.prod(shape)}.", where=at)
    tensor = values.reshape(shape)
    if not 0 < len(tensor) <= most:
        raise DataError(f"{len(tensor)} rows; 1 to {most} are taken.", where=at)
    return tensor


def _values(tensor: Mapping[str, Any], spec: TensorSpec, binary: memoryview | None) -> np.ndarray:
    at = f"inputs.{spec.name}"
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return _listed(tensor.get("data"), spec, at)
    if binary is None:
        raise DataError(
            "the tensor is said to be binary, but the request has no binary part.",
            where=at,
            fix="Send the header Inference-Header-Content-Length: the bytes of the JSON before the tensors.",
        )
    return raw_values(size, binary, spec, at)


def raw_values(size: Any, binary: memoryview, spec: TensorSpec, at: str) -> np.ndarray:
    """The values of a tensor that came as bytes, little end first, said to be `size` of them."""
    dtype = np.dtype(spec.dtype)
    if type(size) is not int or size != len(binary) or size % dtype.itemsize:
        raise DataError(
            f"'binary_data_size' is {size!r}; {len(binary)} bytes of {dtype.itemsize} a value came.", where=at
        )
    if sys.byteorder == "little":
        return np.frombuffer(binary, dtype)
    return np.frombuffer(binary, dtype.newbyteorder("<")).astype(dtype)


def _listed(data: Any, spec: TensorSpec, at: str) -> np.ndarray:
    """The values of a tensor that came as JSON; a `DataError` where the model's type would change them."""
    if not isinstance(data, list):
        raise DataError("'data' is not a list.", where=at)
    data = _flat(data, at)
    if data and type(data[0]) in (int, float) and spec.dtype in _QUICK:
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # no such numbers: below is said why
            return np.frombuffer(_QUICK[spec.dtype](data), spec.dtype)
    dtype = np.dtype(spec.dtype)
    other = DataError(f"'data' holds other values than {DATATYPES[dtype.name]} numbers.", where=at)
    if not {*map(type, data)} <= _NUMBERS:  # NumPy would give every text among them as much room as the longest
        raise other
    values = np.asarray(data)
    allowed = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if values.dtype.kind not in allowed and values.size:
        raise other
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise DataError(f"'data' has values outside {limits.min}..{limits.max}.", where=at)
    return values.astype(dtype)


def _flat(data: list[Any], at: str) -> list[Any]:
    """The values of nested lists, the last axis first."""
    while data and type(data[0]) is list:
        if {*map(type, data)} != {list} or len({*map(len, data)}) > 1:
            raise DataError("'data' is ragged.", where=at)
        data = [*itertools.chain.from_iterable(data)]
    return data


def little_end_first(value: np.ndarray) -> bytes:
    """The values as bytes, the first axis first."""
    return value.tobytes() if sys.byteorder == "little" else value.astype(value.dtype.newbyteorder("<")).tobytes()


def open_shape(spec: TensorSpec) -> list[int]:
    """The shape with -1 for any size."""
    return [-1 if size is None else size for size in spec.shape]
