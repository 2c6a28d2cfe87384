"""``/v1``: samples in, answers out, in the form that the model's learning task gives them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.batching import SampleJob
from lepton_tasks.serving.payload import Limits, read_samples
from lepton_tasks.serving.routing import KEY_HEADER, VERSION_HEADER, ModelTable
from lepton_tasks.serving.schema import ERRORS, ModelList, PredictReply, predict_body
from lepton_tasks.serving.telemetry import Telemetry


def json_reply(value: Any, status: int = 200, *, version: str | None = None) -> Response:
    """A JSON response; numbers of NumPy are understood. `version` is the model version that answered."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {VERSION_HEADER: version} if version is not None else None
    return Response(body, status, headers, media_type="application/json")


def predict_router(table: ModelTable, telemetry: Telemetry, limits: Limits) -> APIRouter:
    """The routes of the prediction API."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.get("/models", response_model=ModelList)
    async def models() -> Response:
        """What is served, and what should be but is not ready."""
        unready = [{"name": name, "ready": False, "reason": why} for name, why in table.unready().items()]
        return json_reply({"models": [*(live.to_dict() for live in table.live()), *unready]})

    @router.get("/models/{name}", responses=ERRORS)
    async def model(name: str) -> Response:
        """One model: version, digest, what it takes, labels, test metrics."""
        return json_reply(table.get(name).to_dict())

    @router.post("/models/{name}/predict", response_model=PredictReply, responses=ERRORS, openapi_extra=predict_body())
    async def predict(name: str, request: Request) -> Response:
        """Answer one sample (a file field, the raw body, or JSON), or several (``{"instances": [...]}``)."""
        with telemetry.watch(name, "v1", probe=request.headers.get("lepton-probe", "")[:32]) as call:
            key = request.headers.get(KEY_HEADER)
            call.live = table.route(name, key=key)
            jobs = [SampleJob(payload) for payload in await read_samples(request, limits, call.live.package.codec)]
            # Read again: while the body came in, another version may have taken over, and the old one takes no more.
            live = call.live = table.route(name, key=key)
            answers = await asyncio.gather(*(live.batcher.submit(job) for job in jobs), return_exceptions=True)
            call.samples = [_sample(job, answer) for job, answer in zip(jobs, answers, strict=True)]
            for i, answer in enumerate(answers):
                if isinstance(answer, DataError) and len(jobs) > 1:
                    raise DataError(answer.what, where=f"instances[{i}]", fix=answer.fix) from answer
                if isinstance(answer, BaseException):
                    raise answer
            version = live.release.version
            return json_reply({"model": name, "version": version, "predictions": answers}, version=version)

    return router


def _sample(job: SampleJob, answer: Any) -> dict[str, Any]:
    """What the request log keeps of one sample."""
    seen = job.told()
    if isinstance(answer, dict):
        seen |= {"label": answer.get("label"), "probability": answer.get("probability")}
    return seen
