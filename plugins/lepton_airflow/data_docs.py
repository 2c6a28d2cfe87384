"""Serve the Data Docs of every data check, passed or failed, to users who may read the logs of its Dag."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from lepton_tasks.core.environment import state_root
from lepton_tasks.quality.report_files import CHECKS, DOCS_PAGE, REPORT_FILE, report_folder

PREFIX = "/lepton/data-docs"

_FAILED, _HELD = "failed", "held"
_ADDRESS = re.compile(rf"({'|'.join(CHECKS)})/[0-9a-f]{{32}}/({_FAILED}|{_HELD})")  # no dot: prevents path traversal
_HEADERS = {
    # Pages contain data values, so they may run no script, load nothing, and have an opaque origin.
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}


def page_path(dag: str, stage: str, fingerprint: str, *, failed: bool) -> str:
    """Path of a check's page, relative to Airflow's address."""
    return f"{PREFIX}/{dag}/{stage}/{fingerprint}/{_FAILED if failed else _HELD}"


class DataDocs:
    """ASGI application, built on the first request.

    Airflow loads plugins in every process, but only the API server has imported FastAPI.
    """

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Handle one request."""
        if self._app is None:
            self._app = _build_app()
        await self._app(scope, receive, send)


def _build_app() -> Any:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

    app = FastAPI(openapi_url=None)
    # Airflow does not authenticate requests to plugin applications.
    may_read = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS))

    @app.get("/{dag_id}/{stage}/{fingerprint}/{outcome}", dependencies=[may_read])
    def page(dag_id: str, stage: str, fingerprint: str, outcome: str) -> HTMLResponse:
        if not _ADDRESS.fullmatch(f"{stage}/{fingerprint}/{outcome}"):
            raise HTTPException(404, "This is not the address of a report.")
        folder = report_folder(state_root(), stage, fingerprint, failed=outcome == _FAILED)
        try:
            about = json.loads((folder / REPORT_FILE).read_text())
            text = (folder / DOCS_PAGE).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise HTTPException(404, "This report is no longer kept; run the stage again.") from error
        if about.get("use_case") != dag_id:
            raise HTTPException(404, f"This report is not about {dag_id}.")
        return HTMLResponse(text, headers=_HEADERS)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code == 401:
            return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)))
        return PlainTextResponse(str(error.detail), error.status_code)

    return app
