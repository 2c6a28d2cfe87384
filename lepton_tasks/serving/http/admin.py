"""``/admin``: deploy, roll back and remove models; requires the admin token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.access import TOKEN_FILE
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.access.secrets import secret_in
from lepton_tasks.serving.errors import ForbiddenError
from lepton_tasks.serving.http.predict import json_reply
from lepton_tasks.serving.http.schema import ERRORS, DeployRequest, ErrorReply
from lepton_tasks.serving.versions.routing import ModelTable


def admin_token(home: Path) -> str:
    """The token in ``home/admin.token``, readable by its owner only; created if missing.

    Raises:
        ConfigError: the file is empty: the token, and the stages' API key derived from it, could be guessed.
    """
    path = home / TOKEN_FILE
    token = secret_in(path, lambda: secrets.token_urlsafe(32).encode() + b"\n").decode().strip()
    if not token:
        raise ConfigError("the admin token is empty.", where=str(path), fix="Remove the file; a new one is created.")
    return token


def token_check(token: str) -> Callable[[Request], None]:
    """A dependency that raises `ForbiddenError` for requests without ``Authorization: Bearer <token>``."""

    def check_token(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise ForbiddenError(
                "the admin token is missing or wrong.", fix=f"It is in {TOKEN_FILE} in the server's state folder."
            )

    return check_token


def admin_router(table: ModelTable, token: str) -> APIRouter:
    """The admin routes; all require ``Authorization: Bearer <token>``."""
    refusals: dict[int | str, dict[str, Any]] = {
        401: {"model": ErrorReply, "description": "The token is missing or wrong."},
        409: {"model": ErrorReply, "description": "There is no previous version."},
        422: {"model": ErrorReply, "description": "The package cannot be used; serving is unchanged."},
    }
    router = APIRouter(
        prefix="/admin/models",
        tags=["admin"],
        dependencies=[Depends(token_check(token))],
        responses={**ERRORS, **refusals},
    )

    @router.post("/{name}")
    async def deploy(name: str, wanted: DeployRequest) -> Response:
        """Deploy a package as champion or challenger; the champion keeps serving until it is loaded and warmed up."""
        served = await table.deploy(
            name,
            Path(wanted.package),
            version=wanted.version,
            digest=wanted.digest,
            by=wanted.by,
            rollout=wanted.rollout,
        )
        return json_reply(served)

    @router.post("/{name}/rollback")
    async def rollback(name: str, by: str = "", version: str | None = None) -> Response:
        """Undo the last deployment, or that of `version`: remove the challenger or restore the previous champion."""
        served = await table.rollback(name, by=by, only=version)
        return json_reply(served)

    @router.post("/{name}/promote")
    async def promote(name: str, by: str = "", version: str | None = None) -> Response:
        """Make the challenger the champion."""
        return json_reply(await table.promote(name, by=by, only=version))

    @router.delete("/{name}")
    async def remove(name: str, by: str = "") -> Response:
        """Stop serving the model."""
        await table.remove(name, by=by)
        return json_reply({"name": name, "removed": True})

    return router
