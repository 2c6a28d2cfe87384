"""Infer requests of the Open Inference Protocol: tensors as JSON, or as bytes behind a JSON header, and back.

Source: https://github.com/kserve/open-inference-protocol (REST, version 2) and its binary tensor data extension,
https://docs.nvidia.com/deeplearning/triton-inference-server, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.inference.batching import Outputs
from lepton_tasks.serving.package import Package, TensorSpec

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
        self._reply: dict[str, Any] = {"model_name": model, "model_version": version}
        self._wanted: list[tuple[str, bool]] = []
        self.header_length: int | None = None
        self.seen: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The input tensor; raises `DataError` naming what does not fit the model."""
        told: dict[str, Any] = {"bytes": len(self._body)}
        self.seen.append(told)
        request = self._request()
        if (key := request.get("id")) is not None:
            if not isinstance(key, str):
                raise DataError("'id' is not a string.")
            self._reply["id"] = key
        self._wanted = _wanted_outputs(request, package)
        spec = package.spec.inputs[0]
        binary = None if self._header is None else memoryview(self._body)[self._header :]
        tensor = _only_input(request.get("inputs"), spec)
        array = checked(_values(tensor, spec, binary), tensor.get("shape"), tensor.get("datatype"), spec, self._most)
        told["rows"] = len(array)
        return [array]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The reply's body."""
        tensors, raw = [], []
        for name, binary in self._wanted:
            value = outputs[0][name]
            tensor: dict[str, Any] = {"name": name, "shape": value.shape, "datatype": OF_DTYPES[value.dtype]}
            if binary:
                raw.append(little_end_first(value))
                tensor["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                tensor["data"] = np.ascontiguousarray(value).ravel()
            tensors.append(tensor)
        body = orjson.dumps({**self._reply, "outputs": tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return body
        self.header_length = len(body)
        return b"".join((body, *raw))

    def _request(self) -> dict[str, Any]:
        text = self._body
        if self._header is not None:
            if self._header > len(self._body):
                raise DataError(f"the header is said to have {self._header} bytes; the body has {len(self._body)}.")
            text = self._body[: self._header]
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise DataError(f"the body is not JSON: {error}.") from error
        if not isinstance(request, dict):
            raise DataError("the body is not a JSON object.", fix="Its form is in GET /docs.")
        return request


def _wanted_outputs(request: Mapping[str, Any], package: Package) -> list[tuple[str, bool]]:
    """The outputs asked for, and whether each is wanted as bytes."""
    asked = request.get("outputs")
    default = _flag(request, "binary_data_output")
    names = [tensor.name for tensor in package.spec.outputs]
    if not asked:
        return [(name, default) for name in names]
    if not isinstance(asked, list):
        raise DataError("'outputs' is not a list.")
    wanted = []
    for item in asked:
        name = item.get("name") if isinstance(item, dict) else item
        if name not in names:
            raise DataError(f"no output {name!r}.", where="outputs", fix=f"There is {', '.join(names)}.")
        wanted.append((name, _flag(item, "binary_data", default) if isinstance(item, dict) else default))
    return wanted


def _flag(value: Mapping[str, Any], name: str, default: bool = False) -> bool:
    parameters = value.get("parameters")
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
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise DataError("'shape' is not a list of sizes.", where=at)
    fits = len(shape) == len(spec.shape) and (
        shape[1:] == list(spec.shape[1:])
        or all(want in (None, size) for want, size in zip(spec.shape, shape, strict=True))
    )
    if not fits:
        raise DataError(f"the shape is {shape}, not {open_shape(spec)} (-1: any size).", where=at)
    if values.size != math.prod(shape):
        raise DataError(f"{values.size} values came; the shape {shape} asks for {math.prod(shape)}.", where=at)
    array = values.reshape(shape)
    if not 0 < len(array) <= most:
        raise DataError(f"{len(array)} rows; 1 to {most} are taken.", where=at)
    return array


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
    if spec.dtype == "uint8":
        try:  # a quarter of the time that NumPy takes for the pixels of a picture
            return np.frombuffer(bytes(data), np.uint8)
        except (TypeError, ValueError):  # nested, or no pixels
            pass
    try:
        array = np.asarray(data)
    except ValueError as error:  # rows of different lengths
        raise DataError("'data' is ragged.", where=at) from error
    dtype = np.dtype(spec.dtype)
    allowed = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed and array.size:
        raise DataError(f"'data' holds other values than {DATATYPES[dtype.name]} numbers.", where=at)
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise DataError(f"'data' has values outside {limits.min}..{limits.max}.", where=at)
    return array.astype(dtype)


def little_end_first(value: np.ndarray) -> bytes:
    """The values as bytes, the first axis first."""
    return value.tobytes() if sys.byteorder == "little" else value.astype(value.dtype.newbyteorder("<")).tobytes()


def open_shape(spec: TensorSpec) -> list[int]:
    """The shape with -1 for any size."""
    return [-1 if size is None else size for size in spec.shape]
