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

_MAX_CACHED_HEADER_BYTES, _MAX_CACHED_HEADERS = 1024, 256  # per package
_SIZE_TYPES = {int}  # not bool, although `True == 1`
_NUMBER_TYPES = {int, float, bool}

_FAST_CONVERTERS: Mapping[str, Callable[[list[Any]], Any]] = {
    "uint8": bytes,
    **{name: functools.partial(array.array, code) for name, code in (("int32", "i"), ("int64", "q"))},
    **{name: functools.partial(array.array, code) for name, code in (("float32", "f"), ("float64", "d"))},
}
"""Convert a list of numbers to a buffer of this dtype, if all fit; four times as fast as NumPy."""

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


DATATYPE_BY_DTYPE = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
"""Keyed by dtype, because `dtype.name` takes NumPy 5 us."""


class _RequestFields(NamedTuple):
    """Fields of an infer request besides its tensor: id, and the names of the outputs with whether each is binary."""

    id: str | None
    wanted: list[tuple[str, bool]]


class _CachedHeader(NamedTuple):
    """A parsed JSON header; `size` is that of the whole body in bytes."""

    fields: _RequestFields
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int


class InferJob:
    """One infer request; parsing and encoding run in the worker thread, too.

    Args:
        body: JSON, followed by the binary input if `header` is given.
        model: Name for the reply.
        version: Version for the reply.
        most: Maximum number of rows.
        header: Bytes of JSON at the start of the body; all by default.

    Attributes:
        header_length: Bytes of JSON at the start of a reply with binary outputs; set by `answer`.
        sample_records: For the request log.
    """

    def __init__(self, body: bytes, *, model: str, version: str, most: int, header: int | None = None) -> None:
        self._body, self._most, self._header = body, most, header
        self._model, self._version = model, version
        self._fields = _RequestFields(None, [])
        self.header_length: int | None = None
        self.sample_records: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The input tensor; raises `DataError` if it does not match the model's input."""
        record: dict[str, Any] = {"bytes": len(self._body)}
        self.sample_records.append(record)
        values = self._read_json(package) if self._header is None else self._read_binary(package, self._header)
        record["rows"] = len(values)
        return [values]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The reply's body."""
        tensors, raw = [], []
        for name, binary in self._fields.wanted:
            value = outputs[0][name]
            tensor: dict[str, Any] = {"name": name, "shape": value.shape, "datatype": DATATYPE_BY_DTYPE[value.dtype]}
            if binary:
                raw.append(little_endian_bytes(value))
                tensor["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                tensor["data"] = np.ascontiguousarray(value).ravel()
            tensors.append(tensor)
        reply: dict[str, Any] = {"model_name": self._model, "model_version": self._version, "outputs": tensors}
        if self._fields.id is not None:
            reply["id"] = self._fields.id
        body = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return body
        self.header_length = len(body)
        return b"".join((body, *raw))

    def _read_json(self, package: Package) -> np.ndarray:
        """The tensor of a JSON request."""
        self._fields, tensor = _parse_request(self._body, package)
        spec = package.spec.inputs[0]
        return validated_tensor(
            _values(tensor, spec, None), tensor.get("shape"), tensor.get("datatype"), spec, self._most
        )

    def _read_binary(self, package: Package, length: int) -> np.ndarray:
        """The tensor after a JSON header of `length` bytes; parsed headers are cached, as clients repeat them."""
        header, spec = self._body[:length], package.spec.inputs[0]
        cached: _CachedHeader | None = package.headers.get(header)
        if cached is not None and len(self._body) == cached.size:
            self._fields = cached.fields
            return np.frombuffer(self._body, cached.dtype, offset=length).reshape(cached.shape)
        if length > len(self._body):
            raise DataError(f"the header is said to have {length} bytes; the body has {len(self._body)}.")
        self._fields, tensor = _parse_request(header, package)
        raw = _values(tensor, spec, memoryview(self._body)[length:])
        values = validated_tensor(raw, tensor.get("shape"), tensor.get("datatype"), spec, self._most)
        if "data" not in tensor and length <= _MAX_CACHED_HEADER_BYTES and sys.byteorder == "little":
            if len(package.headers) >= _MAX_CACHED_HEADERS:
                package.headers.clear()
            package.headers[header] = _CachedHeader(self._fields, values.dtype, values.shape, len(self._body))
        return values


def _parse_request(text: bytes, package: Package) -> tuple[_RequestFields, dict[str, Any]]:
    """Parse a request's JSON into its fields and the input tensor's entry."""
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}.") from error
    if not isinstance(request, dict):
        raise DataError("the body is not a JSON object.", fix="See /docs for its form.")
    if (key := request.get("id")) is not None and not isinstance(key, str):
        raise DataError("'id' is not a string.")
    fields = _RequestFields(key, _wanted_outputs(request, package))
    return fields, _only_input(request.get("inputs"), package.spec.inputs[0])


def _wanted_outputs(request: Mapping[str, Any], package: Package) -> list[tuple[str, bool]]:
    """The requested outputs, and whether each is returned as bytes."""
    requested = request.get("outputs")
    default = _flag(request, "binary_data_output")
    names = package.output_names
    if not requested:
        return [(name, default) for name in names]
    if not isinstance(requested, list):
        raise DataError("'outputs' is not a list.")
    wanted = []
    for item in requested:
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


def validated_tensor(values: np.ndarray, shape: Any, datatype: Any, spec: TensorSpec, most: int) -> np.ndarray:
    """The values reshaped to `shape`; raises `DataError` if shape or datatype do not match the model's input.

    Args:
        values: Flat, in the model's dtype.
        shape: The request's shape.
        datatype: The request's datatype.
        spec: The model's input.
        most: Maximum number of rows.
    """
    at = f"inputs.{spec.name}"
    if datatype != DATATYPES[spec.dtype]:
        raise DataError(f"the datatype is {datatype!r}, not {DATATYPES[spec.dtype]}.", where=at)
    if not isinstance(shape, list) or not {*map(type, shape)} <= _SIZE_TYPES or (shape and min(shape) < 0):
        raise DataError("'shape' is not a list of sizes.", where=at)
    fits = len(shape) == len(spec.shape) and (
        shape[1:] == list(spec.shape[1:])
        or all(want in (None, size) for want, size in zip(spec.shape, shape, strict=True))
    )
    if not fits:
        raise DataError(f"the shape is {shape}, not {wire_shape(spec)} (-1: any size).", where=at)
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
        return _values_from_list(tensor.get("data"), spec, at)
    if binary is None:
        raise DataError(
            "the tensor is said to be binary, but the request has no binary part.",
            where=at,
            fix="Send the header Inference-Header-Content-Length: the bytes of the JSON before the tensors.",
        )
    return raw_values(size, binary, spec, at)


def raw_values(size: Any, binary: memoryview, spec: TensorSpec, at: str) -> np.ndarray:
    """The values of a little-endian binary tensor; `size` is the declared number of bytes."""
    dtype = np.dtype(spec.dtype)
    if type(size) is not int or size != len(binary) or size % dtype.itemsize:
        raise DataError(
            f"'binary_data_size' is {size!r}; {len(binary)} bytes of {dtype.itemsize} a value came.", where=at
        )
    if sys.byteorder == "little":
        return np.frombuffer(binary, dtype)
    return np.frombuffer(binary, dtype.newbyteorder("<")).astype(dtype)


def _values_from_list(data: Any, spec: TensorSpec, at: str) -> np.ndarray:
    """The values of a JSON tensor; raises `DataError` if the model's dtype cannot represent them."""
    if not isinstance(data, list):
        raise DataError("'data' is not a list.", where=at)
    data = _flat(data, at)
    if data and type(data[0]) in (int, float) and spec.dtype in _FAST_CONVERTERS:
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # checked in detail below
            return np.frombuffer(_FAST_CONVERTERS[spec.dtype](data), spec.dtype)
    dtype = np.dtype(spec.dtype)
    other = DataError(f"'data' holds other values than {DATATYPES[dtype.name]} numbers.", where=at)
    if not {*map(type, data)} <= _NUMBER_TYPES:  # NumPy would allocate the longest text's size for every value
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
    """Flatten nested lists in C order."""
    while data and type(data[0]) is list:
        if {*map(type, data)} != {list} or len({*map(len, data)}) > 1:
            raise DataError("'data' is ragged.", where=at)
        data = [*itertools.chain.from_iterable(data)]
    return data


def little_endian_bytes(value: np.ndarray) -> bytes:
    """The values as little-endian bytes in C order."""
    return value.tobytes() if sys.byteorder == "little" else value.astype(value.dtype.newbyteorder("<")).tobytes()


def wire_shape(spec: TensorSpec) -> list[int]:
    """The shape as the protocol writes it: -1 for any size."""
    return [-1 if size is None else size for size in spec.shape]
