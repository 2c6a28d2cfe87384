"""The HTTP application: routes, errors as JSON, startup and graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, Gauge
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from lepton_tasks.core.access import log_id
from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.finding import MONITORING
from lepton_tasks.serving.access.auth import guard_of
from lepton_tasks.serving.http.admin import admin_router, admin_token
from lepton_tasks.serving.http.edge import Cors, Door, Edge, page_policy
from lepton_tasks.serving.http.feedback import feedback_router
from lepton_tasks.serving.http.gallery import gallery_router
from lepton_tasks.serving.http.log_files import log_router
from lepton_tasks.serving.http.oip import oip_router
from lepton_tasks.serving.http.page import PAGE
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.http.predict import as_response, json_reply, predict_router
from lepton_tasks.serving.http.tls import Certificate
from lepton_tasks.serving.http.trying import trying_router
from lepton_tasks.serving.http.video import video_router
from lepton_tasks.serving.http.video_input import sources_of
from lepton_tasks.serving.inference.answering import Answerer
from lepton_tasks.serving.inference.asked import error_reply
from lepton_tasks.serving.observing.exposition import merged
from lepton_tasks.serving.observing.findings import exposed_findings
from lepton_tasks.serving.observing.redact import Redaction
from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, RequestLog
from lepton_tasks.serving.observing.telemetry import Telemetry
from lepton_tasks.serving.observing.tracing import TRACEPARENT, Tracer, trace_id, tracer_of
from lepton_tasks.serving.versions.controller import Controller
from lepton_tasks.serving.versions.fleet import Fleet
from lepton_tasks.serving.versions.follow import Follower, Following
from lepton_tasks.serving.versions.routing import ModelTable

if TYPE_CHECKING:
    from lepton_tasks.serving.rpc.grpc_api import GrpcServer

DRAIN_SECONDS = 20  # for what is being answered, by HTTP and by gRPC, when the server is told to stop
STOP_SECONDS = DRAIN_SECONDS + 5  # until a process has stopped, its records written; whoever kills it waits longer

_log = logging.getLogger("lepton.serving")


class _App(FastAPI):
    """FastAPI behind `Edge`, which so sees the replies of FastAPI's own error handling, too."""

    def build_middleware_stack(self) -> ASGIApp:
        return Edge(super().build_middleware_stack(), self.state.door)


def create_app(
    home: Path,
    *,
    limits: Limits | None = None,
    workers: int | None = None,
    values: bool = True,
    sample: float = 1.0,
    grpc: str | None = None,
    fleet: Fleet | None = None,
    origins: Sequence[str] = (),
    certificate: Certificate | None = None,
    following: Following | None = None,
    keys: Path | None = None,
) -> FastAPI:
    """The application of one server. Packages are loaded once it has started, not here.

    Args:
        home: State folder: packages, token, request log, record of deployments. It must exist.
        limits: What a request may cost.
        workers: Inference threads of each model; without it, one less than there are cores.
        grpc: ``host:port`` to listen on for gRPC, too.
        fleet: The other processes of the server, if there are several.
        values: Whether the request log keeps what was asked: column values of rows, figures of texts and pictures.
        sample: Share of the samples that the request log keeps.
        origins: Origins whose pages may ask.
        certificate: What gRPC listens with.
        following: The model registry whose aliases are followed.
        keys: File of API keys, elsewhere than in the state folder.

    Returns:
        The application. For the fast lane: what answers is its ``state.answerer``, what lets in its ``state.door``; and
        ``state.table`` holds the models. While it runs, ``state.grpc`` is its `GrpcServer`, if it has one.
    """
    limits = limits or Limits()
    redaction = Redaction(home)
    log = RequestLog(
        home / REQUESTS_FOLDER,
        values=values,
        sample=sample,
        redaction=redaction,
        member=fleet.member if fleet else 0,
        members=fleet.size if fleet else 1,
    )
    telemetry = Telemetry(log)

    def changed() -> None:
        loaded = (live for served in table.models() for live in served.versions())
        redaction.packaged([(live.model, live.package.redaction) for live in loaded if live.package.redaction])
        telemetry.serving(table.answering())

    table = ModelTable(home, workers=workers, observer=telemetry.observer, changed=changed, fleet=fleet)
    tracer = tracer_of(os.environ)
    answerer = Answerer(table, telemetry, limits, tracer)
    token = admin_token(home)
    door = Door(guard_of(home, token, os.environ, keys), Cors(origins))
    _add_gauges(telemetry, door, tracer, log)
    beside = None
    if grpc:
        credentials = certificate.credentials() if certificate else None
        beside = functools.partial(
            _grpc, table, answerer, door, grpc, shared=fleet is not None, credentials=credentials
        )
    beyond: list[Callable[[], Coroutine[Any, Any, None]]] = [Controller(table).run]
    if following is not None:
        follower = Follower(table, home, following)
        table.behind = follower.behind
        beyond.append(follower.run)
    app = _App(
        title="Lepton",
        description="Predictions of deployed models.",
        docs_url=None,  # FastAPI's own page loads its script from a CDN
        redoc_url=None,
        lifespan=lambda app: _running(app, telemetry, log, tracer, fleet, beside, beyond),
    )
    app.state.door, app.state.answerer, app.state.table, app.state.grpc = door, answerer, table, None
    app.include_router(predict_router(table, answerer))
    app.include_router(trying_router(table))
    app.include_router(feedback_router(table, log, limits))
    app.include_router(log_router(home / REQUESTS_FOLDER, log_id(token)))
    app.include_router(video_router(table, telemetry, home, sources=sources_of()))
    app.include_router(oip_router(table, answerer))
    app.include_router(admin_router(table, token))
    app.include_router(gallery_router(table, telemetry, limits, home, token))
    app.include_router(_own_router(telemetry, fleet, home.parent / MONITORING))
    _answer_errors_as_json(app)
    return app


@contextlib.asynccontextmanager
async def _running(
    app: FastAPI,
    telemetry: Telemetry,
    log: RequestLog,
    tracer: Tracer,
    fleet: Fleet | None,
    grpc: Callable[[], Awaitable[GrpcServer]] | None,
    beyond: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> AsyncIterator[None]:
    """What runs beside the requests; all of it is ended, whatever fails: what is answered last is logged.

    Args:
        app: The application.
        telemetry: What is told of every request.
        log: The request log.
        tracer: What records traces.
        fleet: The other processes of the server.
        grpc: Begins to listen for gRPC, if it is wanted.
        beyond: What goes on until the server stops.
    """
    table: ModelTable = app.state.table
    async with contextlib.AsyncExitStack() as stack:
        for thread in (log, tracer):
            thread.start()
            stack.push_async_callback(asyncio.to_thread, thread.close)
        stack.callback(telemetry.settle)
        if fleet is not None:
            stack.callback(fleet.close)
        stack.push_async_callback(table.close)
        if grpc is not None:
            app.state.grpc = await grpc()
            stack.push_async_callback(app.state.grpc.stop, DRAIN_SECONDS)
        restoring = asyncio.create_task(_restored(table))  # the server answers (503) while it loads
        stack.push_async_callback(asyncio.wait, [restoring])
        if fleet is not None:  # the others answer meanwhile: connections must not come here
            await restoring
        for run in beyond:
            stack.callback(asyncio.create_task(run()).cancel)
        yield


async def _restored(table: ModelTable) -> None:
    try:
        await table.restore()
    except Exception:
        _log.exception("what was deployed cannot be served")
        raise


async def _grpc(table: ModelTable, answerer: Answerer, door: Door, address: str, **options: Any) -> GrpcServer:
    from lepton_tasks.serving.rpc.grpc_api import GrpcServer  # 0.1 s and 20 MB that most servers can do without

    server = GrpcServer(table, answerer, door.guard, address, **options)
    await server.start()
    _log.info("gRPC on %s", address)
    return server


def _add_gauges(telemetry: Telemetry, door: Door, tracer: Tracer, log: RequestLog) -> None:
    refused = Gauge("lepton_refused", "Requests without a valid API key.", ("status",), registry=telemetry.registry)
    for status in door.guard.refused:
        refused.labels(status).set_function(functools.partial(door.guard.refused.__getitem__, status))
    lost = Gauge("lepton_traces_dropped", "Requests missing in the traces.", registry=telemetry.registry)
    lost.set_function(lambda: tracer.dropped)
    skipped = Gauge("lepton_request_log_skipped", "Records omitted by sampling.", registry=telemetry.registry)
    skipped.set_function(lambda: log.skipped)


def _own_router(telemetry: Telemetry, fleet: Fleet | None, watched: Path) -> APIRouter:
    """Metrics, and the page."""
    router = APIRouter()
    if fleet is not None:
        fleet.metrics = lambda: telemetry.exposition().decode()

    @router.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        own = telemetry.exposition()
        if fleet is not None:
            others = {reply["member"]: reply["text"] for reply in await fleet.ask(op="metrics")}
            own = merged({fleet.member: own.decode(), **others})
        found = await asyncio.to_thread(exposed_findings, watched)  # 0.3 ms of CPU a model
        return Response(own + found, media_type=CONTENT_TYPE_LATEST)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"content-security-policy": page_policy(PAGE)})

    return router


def _answer_errors_as_json(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        return as_response(error_reply(error))

    async def invalid(_: Request, error: Exception) -> Response:
        faults = error.errors() if isinstance(error, RequestValidationError) else []
        reasons = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults]
        return json_reply({"error": "; ".join(reasons)}, 400)

    async def unforeseen(request: Request, error: Exception) -> Response:
        trace = trace_id(request.headers.get(TRACEPARENT))
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error, extra={"trace": trace})
        return as_response(error_reply(error))

    app.add_exception_handler(LeptonError, known)
    app.add_exception_handler(HTTPException, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unforeseen)
