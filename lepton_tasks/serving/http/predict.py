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
from lepton_tasks.serving.inference.answering import Answerer
from lepton_tasks.serving.inference.asked import Api, Asked, Heading, Reply
from lepton_tasks.serving.versions.lookup import VERSION_HEADER, Lookup


def json_reply(value: Any, status: int = 200, *, version: str | None = None) -> Response:
    """A JSON response; numbers of NumPy are understood. `version` is the model version that answered."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {VERSION_HEADER: version} if version is not None else None
    return Response(body, status, headers, media_type="application/json")


def as_response(reply: Reply) -> Response:
    """The reply as the framework sends it."""
    return Response(reply.body, reply.status, dict(reply.headers))


async def answered(
    request: Request, api: Api, name: str, version: str | None, table: Lookup, answerer: Answerer
) -> Response:
    """The response to a request for predictions, whose headers and body are still to be read."""
    heading = Heading.read(api, name, version, request.headers.get)
    asked = Asked(heading, caller=request.state.key)
    try:
        table.route(name, version=version)  # before a long body for nothing is read
        asked.body = await read_body(request, answerer.limits)
        if api == "v1" and heading.kind == "multipart/form-data":
            asked.payloads = await read_files(request, asked.body, answerer.limits)
    except LeptonError as error:
        return as_response(answerer.refuse(asked, error))
    return as_response(await answerer.answer(asked))


def predict_router(table: Lookup, answerer: Answerer) -> APIRouter:
    """The routes of the prediction API."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.get("/models", response_model=ModelList)
    async def models() -> Response:
        """What is served, and what should be but is not ready."""
        unready = [
            {"name": name, "ready": False, "reason": why, "refused": table.refused.get(name)}
            for name, why in table.unready().items()
        ]
        return json_reply({"models": [*map(table.about, table.names()), *unready]})

    @router.get("/models/{name}", responses=ERRORS)
    async def model(name: str) -> Response:
        """One model: version, digest, what it takes, labels, test metrics."""
        return json_reply(table.about(name))

    @router.post("/models/{name}/predict", response_model=PredictReply, responses=ERRORS, openapi_extra=predict_body())
    @router.post(
        "/models/{name}/versions/{version}/predict",
        response_model=PredictReply,
        responses=ERRORS,
        openapi_extra=predict_body(),
    )
    async def predict(name: str, request: Request, version: str | None = None) -> Response:
        """Answer one sample (a file field, the raw body, or JSON), or several (``{"instances": [...]}``)."""
        return await answered(request, "v1", name, version, table, answerer)

    return router
