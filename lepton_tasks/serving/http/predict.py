"""``/v1``: prediction in the format of the model's learning task."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.http.payload import read_body, read_files
from lepton_tasks.serving.http.schema import ERRORS, ModelList, PredictReply, predict_body
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.inference.request import Api, PredictionRequest, Reply, RequestHead
from lepton_tasks.serving.versions.lookup import VERSION_HEADER, Lookup


def json_reply(value: Any, status: int = 200, *, version: str | None = None) -> Response:
    """A JSON response; `value` may contain NumPy values. `version`: the model version that produced it."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {VERSION_HEADER: version} if version is not None else None
    return Response(body, status, headers, media_type="application/json")


def as_response(reply: Reply) -> Response:
    """The reply as a Starlette response."""
    return Response(reply.body, reply.status, dict(reply.headers))


async def prediction_response(
    request: Request, api: Api, name: str, version: str | None, table: Lookup, handler: RequestHandler
) -> Response:
    """Read a prediction request and return its response."""
    head = RequestHead.from_headers(api, name, version, request.headers.get)
    prediction = PredictionRequest(head, caller=request.state.key)
    try:
        table.route(name, version=version)  # fail before reading the body
        prediction.body = await read_body(request, handler.limits)
        if api == "v1" and head.kind == "multipart/form-data":
            prediction.payloads = await read_files(request, prediction.body, handler.limits)
    except LeptonError as error:
        return as_response(handler.refuse(prediction, error))
    return as_response(await handler.handle(prediction))


def predict_router(table: Lookup, handler: RequestHandler) -> APIRouter:
    """The routes of the prediction API."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.get("/models", response_model=ModelList)
    async def models() -> Response:
        """All deployed models, with the reason if one is not ready."""
        unready = [
            {"name": name, "ready": False, "reason": why, "refused": table.refused.get(name)}
            for name, why in table.unready().items()
        ]
        return json_reply({"models": [*map(table.about, table.names()), *unready]})

    @router.get("/models/{name}", responses=ERRORS)
    async def model(name: str) -> Response:
        """One model: version, digest, media type, labels, test metrics."""
        return json_reply(table.about(name))

    @router.post("/models/{name}/predict", response_model=PredictReply, responses=ERRORS, openapi_extra=predict_body())
    @router.post(
        "/models/{name}/versions/{version}/predict",
        response_model=PredictReply,
        responses=ERRORS,
        openapi_extra=predict_body(),
    )
    async def predict(name: str, request: Request, version: str | None = None) -> Response:
        """Predict one sample (form file, raw body or JSON), or several (``{"instances": [...]}``)."""
        return await prediction_response(request, "v1", name, version, table, handler)

    return router
