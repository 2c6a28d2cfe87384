"""``/v1/models/<name>/feedback``: true labels, by prediction id."""

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
    """The route that stores outcomes in the request log."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.post(
        "/models/{name}/feedback", response_model=FeedbackReply, responses=ERRORS, openapi_extra=feedback_body()
    )
    async def feedback(name: str, request: Request) -> Response:
        """Report true labels: ``{"id": "...", "label": ...}``, or ``{"outcomes": [...]}`` with up to 10,000 of them.

        The id comes from the prediction response; with several predictions it is ``<id>/0``, ``<id>/1`` and so on. The
        last outcome per id counts.
        """
        table.served(name)  # fail before reading the body
        outcomes = await asyncio.to_thread(_outcomes, await read_body(request, limits))
        for stored, outcome in enumerate(outcomes):
            record = {"time": time.time(), "id": outcome.id, "label": outcome.label, "caller": request.state.key}
            if not log.add_outcome(name, record):
                raise UnavailableError(f"the log is full; {stored} of {len(outcomes)} outcomes were stored.")
        return json_reply({"model": name, "taken": len(outcomes)})

    return router


def _outcomes(body: bytes) -> list[Outcome]:
    """Parse the body; raises `DataError` that describes the first invalid outcome."""
    try:
        if b'"outcomes"' in body:
            return Outcomes.model_validate_json(body).outcomes
        return [Outcome.model_validate_json(body)]
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in fault["loc"] if part not in ("bool", "int", "float", "constrained-str"))
        fix = 'Send {"id": "...", "label": ...}, or {"outcomes": [...]}.'
        raise DataError(f"{fault['msg']}.", where=at, fix=fix) from error
