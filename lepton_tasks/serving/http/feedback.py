"""``/v1/models/<name>/feedback``: true labels, by the id of the answer."""

from __future__ import annotations

import asyncio
import time

import pydantic
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.serving.http.payload import Limits, read_body
from lepton_tasks.serving.http.predict import json_reply
from lepton_tasks.serving.http.schema import ERRORS, FeedbackReply, Outcome, Outcomes, feedback_body
from lepton_tasks.serving.observing.request_log import RequestLog
from lepton_tasks.serving.versions.lookup import Lookup


def feedback_router(table: Lookup, log: RequestLog, limits: Limits) -> APIRouter:
    """The route that takes outcomes down, in the request log."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.post(
        "/models/{name}/feedback", response_model=FeedbackReply, responses=ERRORS, openapi_extra=feedback_body()
    )
    async def feedback(name: str, request: Request) -> Response:
        """Tell what was right: ``{"id": "...", "label": ...}``, or ``{"outcomes": [...]}`` with up to 10,000 of them.

        The id is that of a reply; of one with several predictions, ``<id>/0`` and so on. The later of two for one id
        counts.
        """
        table.served(name)  # before a long body for nothing is read
        outcomes = await asyncio.to_thread(_outcomes, await read_body(request, limits))
        for taken, outcome in enumerate(outcomes):
            record = {"time": time.time(), "id": outcome.id, "label": outcome.label, "caller": request.state.key}
            if not log.add_outcome(name, record):
                raise UnavailableError(f"the log is full; {taken} of {len(outcomes)} outcomes are taken.")
        return json_reply({"model": name, "taken": len(outcomes)})

    return router


def _outcomes(body: bytes) -> list[Outcome]:
    """The outcomes of a body; raises `DataError` naming what is wrong with the first that is none."""
    try:
        if b'"outcomes"' in body:
            return Outcomes.model_validate_json(body).outcomes
        return [Outcome.model_validate_json(body)]
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in fault["loc"] if part not in ("bool", "int", "float", "constrained-str"))
        fix = 'Send {"id": "...", "label": ...}, or {"outcomes": [...]}.'
        raise DataError(f"{fault['msg']}.", where=at, fix=fix) from error
