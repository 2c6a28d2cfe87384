"""``/v2``: the Open Inference Protocol, tensors in and out, as JSON.

Source: https://github.com/kserve/open-inference-protocol (REST, version 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.package import Package, TensorSpec
from lepton_tasks.serving.payload import Limits, read_body
from lepton_tasks.serving.predict import json_reply
from lepton_tasks.serving.routing import KEY_HEADER, VERSION_HEADER, ModelTable
from lepton_tasks.serving.schema import ERRORS, infer_body
from lepton_tasks.serving.telemetry import Telemetry

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


class InferJob:
    """One infer request; parsing and replying happen in the worker thread too.

    Args:
        body: The JSON body.
        model: Name for the reply.
        version: Version for the reply.
        limits: How many rows are allowed.
    """

    def __init__(self, body: bytes, *, model: str, version: str, limits: Limits) -> None:
        self._body, self._limits = body, limits
        self._reply: dict[str, Any] = {"model_name": model, "model_version": version}
        self._wanted: list[str] = []
        self.rows = 0

    def decode(self, package: Package) -> np.ndarray:
        """The input tensor; raises `DataError` naming what does not fit the model."""
        try:
            request = orjson.loads(self._body)
        except orjson.JSONDecodeError as error:
            raise DataError(f"the body is not JSON: {error}.") from error
        if not isinstance(request, dict):
            raise DataError("the body is not a JSON object.", fix="Its form is in GET /docs.")
        if (key := request.get("id")) is not None:
            if not isinstance(key, str):
                raise DataError("'id' is not a string.")
            self._reply["id"] = key
        self._wanted = _wanted_outputs(request.get("outputs"), package)
        spec = package.spec.inputs[0]
        array = _tensor(_only_input(request.get("inputs"), spec), spec)
        if not 0 < len(array) <= self._limits.samples:
            raise DataError(f"{len(array)} rows; 1 to {self._limits.samples} are taken.", where=f"inputs.{spec.name}")
        self.rows = len(array)
        return array

    def answer(self, package: Package, outputs: Mapping[str, np.ndarray]) -> bytes:
        """The reply's body."""
        tensors = [
            {
                "name": name,
                "shape": list(outputs[name].shape),
                "datatype": _DATATYPES[str(outputs[name].dtype)],
                "data": outputs[name].ravel().tolist(),
            }
            for name in self._wanted
        ]
        return orjson.dumps({**self._reply, "outputs": tensors})


def _wanted_outputs(asked: Any, package: Package) -> list[str]:
    names = [tensor.name for tensor in package.spec.outputs]
    if not asked:
        return names
    if not isinstance(asked, list):
        raise DataError("'outputs' is not a list.")
    wanted: list[Any] = [item.get("name") if isinstance(item, dict) else item for item in asked]
    for name in wanted:
        if name not in names:
            raise DataError(f"no output {name!r}.", where="outputs", fix=f"There is {', '.join(names)}.")
    return wanted


def _only_input(inputs: Any, spec: TensorSpec) -> dict[str, Any]:
    fix = f"Send one input named {spec.name!r}."
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise DataError("'inputs' is not a list of one tensor.", fix=fix)
    if inputs[0].get("name") != spec.name:
        raise DataError(f"no input {inputs[0].get('name')!r}.", where="inputs", fix=fix)
    only: dict[str, Any] = inputs[0]
    return only


def _tensor(value: Mapping[str, Any], spec: TensorSpec) -> np.ndarray:
    """The array a JSON tensor describes, checked against what the model takes."""
    at = f"inputs.{spec.name}"
    if value.get("datatype") != _DATATYPES[spec.dtype]:
        raise DataError(f"the datatype is {value.get('datatype')!r}, not {_DATATYPES[spec.dtype]}.", where=at)
    shape = value.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise DataError("'shape' is not a list of sizes.", where=at)
    fits = len(shape) == len(spec.shape) and all(
        want in (None, size) for want, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise DataError(f"the shape is {shape}, not {_open_shape(spec)} (-1: any size).", where=at)
    try:
        array = np.asarray(value.get("data"))
    except ValueError as error:  # rows of different lengths
        raise DataError("'data' is ragged.", where=at) from error
    if array.size != math.prod(shape):
        raise DataError(f"'data' has {array.size} values; the shape {shape} asks for {math.prod(shape)}.", where=at)
    return _cast(array, np.dtype(spec.dtype), at).reshape(shape)


def _cast(array: np.ndarray, dtype: np.dtype[Any], at: str) -> np.ndarray:
    """The values as `dtype`, or a `DataError` where that would change them."""
    allowed = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed and array.size:
        raise DataError(f"'data' holds other values than {_DATATYPES[dtype.name]} numbers.", where=at)
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise DataError(f"'data' has values outside {limits.min}..{limits.max}.", where=at)
    return array.astype(dtype)


def _open_shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": _DATATYPES[spec.dtype], "shape": _open_shape(spec)}


def _own_version() -> str:
    try:
        return version("lepton-ai")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def oip_router(table: ModelTable, telemetry: Telemetry, limits: Limits) -> APIRouter:
    """The routes of the protocol."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """The server's name and version."""
        return {"name": "lepton", "version": _own_version(), "extensions": []}

    @router.get("/health/live")
    async def is_live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def is_ready() -> Response:
        """Whether what was deployed before a restart has been loaded, as far as it can be."""
        return json_reply({"ready": table.restored}, 200 if table.restored else 503)

    @router.get("/models/{name}", responses=ERRORS)
    @router.get("/models/{name}/versions/{version}", responses=ERRORS)
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """What the model takes and gives."""
        live = table.get(name, version)
        return {
            "name": name,
            "versions": [live.release.version],
            "platform": "onnxruntime_onnx",
            "inputs": [_metadata(tensor) for tensor in live.package.spec.inputs],
            "outputs": [_metadata(tensor) for tensor in live.package.spec.outputs],
        }

    @router.get("/models/{name}/ready", responses=ERRORS)
    @router.get("/models/{name}/versions/{version}/ready", responses=ERRORS)
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether the model answers."""
        table.get(name, version)
        return {"name": name, "ready": True}

    @router.post("/models/{name}/infer", responses=ERRORS, openapi_extra=infer_body())
    @router.post("/models/{name}/versions/{version}/infer", responses=ERRORS, openapi_extra=infer_body())
    async def infer(name: str, request: Request, version: str | None = None) -> Response:
        """Outputs of the network for a batch of tensors."""
        with telemetry.watch(name, "v2", probe=request.headers.get("lepton-probe", "")[:32]) as call:
            key = request.headers.get(KEY_HEADER)
            call.live = table.route(name, key=key, version=version)
            body = await read_body(request, limits)
            live = call.live = table.route(name, key=key, version=version)  # another may have taken over
            job = InferJob(body, model=name, version=live.release.version, limits=limits)
            answer: bytes = await live.batcher.submit(job)
            call.samples = [{"rows": job.rows, "bytes": len(body)}]
            headers = {VERSION_HEADER: live.release.version}
            return Response(answer, headers=headers, media_type="application/json")

    return router
