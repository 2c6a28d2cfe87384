"""``/v1/requests/<model>``: download of request log files, for monitors without a shared disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.access.keys import LOGS
from lepton_tasks.serving.errors import ForbiddenError
from lepton_tasks.serving.http.predict import json_reply
from lepton_tasks.serving.http.schema import ERRORS
from lepton_tasks.serving.observing.request_log import OUTCOMES, OWN_FILE
from lepton_tasks.serving.observing.segments import LIVE, own_files
from lepton_tasks.serving.versions.releases import NAME

PART = 2**20  # bytes per reply: read and sent in a millisecond, so other requests are not delayed


def log_router(folder: Path, log: str) -> APIRouter:
    """Read-only routes of the request log; both require an API key with access to the log.

    Args:
        folder: Folder of the request log.
        log: Its id, see `core.access.log_id`.
    """
    router = APIRouter(prefix="/v1/requests", tags=["requests"], dependencies=[Depends(_keyed)], responses=ERRORS)

    @router.get("/{model}")
    async def files(model: str) -> Response:
        """Log id, and a model's log files with their sizes: ``{"log", "files": [{"name", "bytes"}]}``.

        Files in ``outcomes/`` contain reported outcomes.
        """
        return json_reply({"log": log, "files": await asyncio.to_thread(_listed, _home(folder, model))})

    @router.get("/{model}/{file:path}", response_class=Response)
    async def part(model: str, file: str, offset: int = 0) -> Response:
        """Up to 1 MiB of a file from `offset`; only whole lines of a live file. Empty at the end."""
        home = _home(folder, model)
        if not OWN_FILE.fullmatch(file) or offset < 0:
            raise DataError(f"{file!r} from byte {offset} is no part of a file of the log.")
        return Response(await asyncio.to_thread(_part, home / file, offset), media_type="application/octet-stream")

    return router


def _keyed(request: Request) -> None:
    """Raise `ForbiddenError` without an API key, even on servers that do not require one."""
    if not request.state.key:
        raise ForbiddenError(
            "the request log is read with an API key only.",
            fix=f"`lepton key add stages --models '*' --models '{LOGS}*'` creates one.",
        )


def _home(folder: Path, model: str) -> Path:
    if not NAME.fullmatch(model):
        raise HTTPException(404, f"{model!r} is not the name of a model.")
    return folder / model


def _listed(home: Path) -> list[dict[str, str | int]]:
    found: list[dict[str, str | int]] = []
    for place in (home, home / OUTCOMES):
        for path in sorted(own_files(place)):
            try:
                found.append({"name": str(path.relative_to(home)), "bytes": path.stat().st_size})
            except FileNotFoundError:  # sealed or pruned meanwhile: listed next time
                continue
    return found


def _part(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            found = stream.read(PART)
    except FileNotFoundError as error:
        raise HTTPException(404, f"there is no {path.name}; lines are sealed as Parquet.") from error
    return found[: found.rfind(b"\n") + 1] if path.suffix == LIVE else found
