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
from lepton_tasks.serving.http.example import example_router
from lepton_tasks.serving.http.feedback import feedback_router
from lepton_tasks.serving.http.gallery import gallery_router
from lepton_tasks.serving.http.log_files import log_router
from lepton_tasks.serving.http.middleware import AccessControl, Cors, SecurityMiddleware, page_policy
from lepton_tasks.serving.http.oip import oip_router
from lepton_tasks.serving.http.page import PAGE
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.http.predict import as_response, json_reply, predict_router
from lepton_tasks.serving.http.tls import Certificate
from lepton_tasks.serving.http.video import video_router
from lepton_tasks.serving.http.video_input import sources_of
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.inference.request import error_reply
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

DRAIN_SECONDS = 20  # for running HTTP and gRPC requests at shutdown
STOP_SECONDS = DRAIN_SECONDS + 5  # until a process has written its logs and exited; supervisors must wait longer

_log = logging.getLogger("lepton.serving")


class _App(FastAPI):
    """FastAPI with `SecurityMiddleware` outside its own error handling, so that error responses get headers, too."""

    def build_middleware_stack(self) -> ASGIApp:
        return SecurityMiddleware(super().build_middleware_stack(), self.state.access)


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
    """The application of one server process. Packages are loaded at startup, not here.

    Args:
        home: State folder: packages, token, request log, deployment record. It must exist.
        limits: Limits per request.
        workers: Inference threads per model; by default, the number of cores less one.
        grpc: ``host:port`` for gRPC.
        fleet: The other processes of the server, if there are several.
        values: Whether the request log keeps input values: columns of rows, statistics of texts and images.
        sample: Share of samples that the request log keeps.
        origins: Origins allowed by CORS.
        certificate: TLS certificate for gRPC.
        following: The model registry whose aliases are followed.
        keys: File of API keys, if not in the state folder.

    Returns:
        The application. Its ``state.handler`` and ``state.access`` are for the fast lane, ``state.table`` has the
        models, and ``state.grpc`` is the running `GrpcServer`, if any.
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

    def on_change() -> None:
        loaded = (live for served in table.models() for live in served.versions())
        redaction.packaged([(live.model, live.package.redaction) for live in loaded if live.package.redaction])
        telemetry.serving(table.active_versions())

    table = ModelTable(home, workers=workers, observer=telemetry.observer, changed=on_change, fleet=fleet)
    tracer = tracer_of(os.environ)
    handler = RequestHandler(table, telemetry, limits, tracer)
    token = admin_token(home)
    access = AccessControl(guard_of(home, token, os.environ, keys), Cors(origins))
    _add_gauges(telemetry, access, tracer, log)
    start_grpc = None
    if grpc:
        credentials = certificate.credentials() if certificate else None
        start_grpc = functools.partial(
            _start_grpc, table, handler, access, grpc, shared=fleet is not None, credentials=credentials
        )
    background: list[Callable[[], Coroutine[Any, Any, None]]] = [Controller(table).run]
    if following is not None:
        follower = Follower(table, home, following)
        table.behind = follower.behind
        background.append(follower.run)
    app = _App(
        title="Lepton",
        description="Predictions of deployed models.",
        docs_url=None,  # FastAPI's own page loads its script from a CDN
        redoc_url=None,
        lifespan=lambda app: _lifespan(app, telemetry, log, tracer, fleet, start_grpc, background),
    )
    app.state.access, app.state.handler, app.state.table, app.state.grpc = access, handler, table, None
    app.include_router(predict_router(table, handler))
    app.include_router(example_router(table))
    app.include_router(feedback_router(table, log, limits))
    app.include_router(log_router(home / REQUESTS_FOLDER, log_id(token)))
    app.include_router(video_router(table, telemetry, home, sources=sources_of()))
    app.include_router(oip_router(table, handler))
    app.include_router(admin_router(table, token))
    app.include_router(gallery_router(table, telemetry, limits, home, token))
    app.include_router(_metrics_router(telemetry, fleet, home.parent / MONITORING))
    _add_error_handlers(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(
    app: FastAPI,
    telemetry: Telemetry,
    log: RequestLog,
    tracer: Tracer,
    fleet: Fleet | None,
    grpc: Callable[[], Awaitable[GrpcServer]] | None,
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> AsyncIterator[None]:
    """Run the background threads and tasks; they are stopped in reverse order, so that the last requests are logged.

    Args:
        app: The application.
        telemetry: Metrics.
        log: The request log.
        tracer: Records traces.
        fleet: The other processes of the server.
        grpc: Starts the gRPC listener, if any.
        background: Tasks cancelled at shutdown.
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
        restoring = asyncio.create_task(_restore(table))  # requests get 503 while models load
        stack.push_async_callback(asyncio.wait, [restoring])
        if fleet is not None:  # do not listen before: the other processes serve meanwhile
            await restoring
        for run in background:
            stack.callback(asyncio.create_task(run()).cancel)
        yield


async def _restore(table: ModelTable) -> None:
    try:
        await table.restore()
    except Exception:
        _log.exception("restoring the deployed models failed")
        raise


async def _start_grpc(
    table: ModelTable, handler: RequestHandler, access: AccessControl, address: str, **options: Any
) -> GrpcServer:
    from lepton_tasks.serving.rpc.grpc_api import GrpcServer  # costs 0.1 s and 20 MB, and is optional

    server = GrpcServer(table, handler, access.guard, address, **options)
    await server.start()
    _log.info("gRPC on %s", address)
    return server


def _add_gauges(telemetry: Telemetry, access: AccessControl, tracer: Tracer, log: RequestLog) -> None:
    refused = Gauge("lepton_refused", "Requests without a valid API key.", ("status",), registry=telemetry.registry)
    for status in access.guard.refused:
        refused.labels(status).set_function(functools.partial(access.guard.refused.__getitem__, status))
    lost = Gauge("lepton_traces_dropped", "Requests missing in the traces.", registry=telemetry.registry)
    lost.set_function(lambda: tracer.dropped)
    skipped = Gauge("lepton_request_log_skipped", "Records omitted by sampling.", registry=telemetry.registry)
    skipped.set_function(lambda: log.skipped)


def _metrics_router(telemetry: Telemetry, fleet: Fleet | None, watched: Path) -> APIRouter:
    """Routes of the metrics and the try-out page."""
    router = APIRouter()
    if fleet is not None:
        fleet.metrics = lambda: telemetry.exposition().decode()

    @router.get("/metrics", tags=["metrics"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        own = telemetry.exposition()
        if fleet is not None:
            others = {reply["member"]: reply["text"] for reply in await fleet.broadcast(op="metrics")}
            own = merged({fleet.member: own.decode(), **others})
        found = await asyncio.to_thread(exposed_findings, watched)  # 0.3 ms of CPU time per model
        return Response(own + found, media_type=CONTENT_TYPE_LATEST)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"content-security-policy": page_policy(PAGE)})

    return router


def _add_error_handlers(app: FastAPI) -> None:
    async def handle_known(_: Request, error: Exception) -> Response:
        return as_response(error_reply(error))

    async def handle_invalid(_: Request, error: Exception) -> Response:
        faults = error.errors() if isinstance(error, RequestValidationError) else []
        reasons = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults]
        return json_reply({"error": "; ".join(reasons)}, 400)

    async def handle_unexpected(request: Request, error: Exception) -> Response:
        trace = trace_id(request.headers.get(TRACEPARENT))
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error, extra={"trace": trace})
        return as_response(error_reply(error))

    app.add_exception_handler(LeptonError, handle_known)
    app.add_exception_handler(HTTPException, handle_known)
    app.add_exception_handler(RequestValidationError, handle_invalid)
    app.add_exception_handler(Exception, handle_unexpected)
