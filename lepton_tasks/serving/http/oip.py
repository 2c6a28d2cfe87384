"""``/v2``: the Open Inference Protocol.

Source: https://github.com/kserve/open-inference-protocol (REST, version 2).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.serving.http.predict import json_reply, prediction_response
from lepton_tasks.serving.http.schema import ERRORS, infer_body
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.inference.tensors import DATATYPES, wire_shape
from lepton_tasks.serving.package import TensorSpec
from lepton_tasks.serving.versions.lookup import Lookup


def metadata_of(table: Lookup, name: str, version: str | None = None) -> dict[str, Any]:
    """Model metadata as the protocol defines it."""
    live = table.get(name, version)
    return {
        "name": name,
        "versions": [loaded.release.version for loaded in table.served(name).versions()],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor_metadata(tensor) for tensor in live.package.spec.inputs],
        "outputs": [_tensor_metadata(tensor) for tensor in live.package.spec.outputs],
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": wire_shape(spec)}


def own_version() -> str:
    """The version of the installed package."""
    try:
        return version("lepton-ai")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def oip_router(table: Lookup, handler: RequestHandler) -> APIRouter:
    """The routes of the protocol."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """The server's name and version."""
        return {"name": "lepton", "version": own_version(), "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    async def is_live() -> dict[str, bool]:
        """Whether the process responds."""
        return {"live": True}

    @router.get("/health/ready")
    async def is_ready() -> Response:
        """Whether the deployed models and the registry's champions are loaded, and the server is not stopping."""
        reason = table.unready_reason()
        return json_reply({"ready": False, "reason": reason} if reason else {"ready": True}, 503 if reason else 200)

    @router.get("/models/{name}", responses=ERRORS)
    @router.get("/models/{name}/versions/{version}", responses=ERRORS)
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """Versions, inputs and outputs of the model."""
        return metadata_of(table, name, version)

    @router.get("/models/{name}/ready", responses=ERRORS)
    @router.get("/models/{name}/versions/{version}/ready", responses=ERRORS)
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether the model is loaded."""
        table.get(name, version)
        return {"name": name, "ready": True}

    @router.post("/models/{name}/infer", responses=ERRORS, openapi_extra=infer_body())
    @router.post("/models/{name}/versions/{version}/infer", responses=ERRORS, openapi_extra=infer_body())
    async def infer(name: str, request: Request, version: str | None = None) -> Response:
        """Run the network on a batch of tensors."""
        return await prediction_response(request, "v2", name, version, table, handler)

    return router
