"""``/v1/models/<name>/video``: answers for the frames of a video, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lepton_tasks.core.errors import DataError, LeptonError, UnavailableError
from lepton_tasks.serving.errors import MediaTypeError, NoDecoderError
from lepton_tasks.serving.http.frames import MISSING
from lepton_tasks.serving.http.schema import ERRORS, video_body
from lepton_tasks.serving.http.video_input import Sources, VideoLimits, received
from lepton_tasks.serving.inference.samples import SampleJob
from lepton_tasks.serving.observing.telemetry import Telemetry
from lepton_tasks.serving.versions.lookup import Lookup

_AHEAD = 4  # frames of one video that are being answered at a time


def video_router(
    table: Lookup, telemetry: Telemetry, home: Path, *, sources: Sources, limits: VideoLimits | None = None
) -> APIRouter:
    """The route of videos."""
    limits = limits or VideoLimits()
    router = APIRouter(prefix="/v1", tags=["predict"])
    places = asyncio.Semaphore(limits.at_once)

    @router.post("/models/{name}/video", responses={**ERRORS, **_MORE}, openapi_extra=video_body())
    async def video(
        name: str,
        request: Request,
        fps: Annotated[float, Query(gt=0, le=1000, description="Frames per second to sample.")] = 1.0,
        differences: Annotated[bool, Query(description="Process the change since the previous frame.")] = False,
        source: Annotated[str, Query(max_length=2000, description="Address to open instead of a body.")] = "",
    ) -> Response:
        """Answer the frames of a video, as server-sent events: one ``frame`` each, and a ``summary`` at the end."""
        if not table.get(name).package.codec.media_type.startswith("image/"):
            raise MediaTypeError(f"{name!r} does not accept images, so it cannot process video.")
        place = sources.checked(source) if source else ""
        if places.locked():
            raise UnavailableError(f"{limits.at_once} videos are already being processed.", fix="Try again later.")
        held = contextlib.AsyncExitStack()
        try:
            await places.acquire()
            held.callback(places.release)
            upload = None if place else held.enter_context(await received(request, limits, home))
            child = await _decoder(place, upload, limits, fps=fps, differences=differences)
            held.push_async_callback(_ended, child)
            frames = Frames(table, telemetry, name, child, caller=request.state.key)
            frames.first = await frames.read()  # until it is there, an error can still be a status
        except BaseException:
            await held.aclose()
            raise
        return EventStream(frames, held)

    return router


_MORE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events: frame, summary, error."},
    403: ERRORS[400] | {"description": "A source that the server may not open."},
    501: ERRORS[400] | {"description": "The server has no video decoder."},
}


async def _decoder(
    place: str, upload: IO[bytes] | None, limits: VideoLimits, *, fps: float, differences: bool
) -> Process:
    handles = () if upload is None else (upload.fileno(),)
    path = f"/proc/self/fd/{handles[0]}" if handles else place
    command = [
        sys.executable,
        "-m",
        "lepton_tasks.serving.http.frames",
        path,
        f"--fps={fps}",
        f"--most={limits.frames}",
    ]
    command += [f"--pixels={limits.pixels}", *(["--uploaded"] if handles else [])]
    command += ["--differences"] if differences else []
    return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, pass_fds=handles)


async def _ended(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()


class Frames:
    """A video that is being looked at.

    Args:
        table: Which version answers.
        telemetry: What is told of every frame.
        name: The model.
        child: Decodes.
        caller: Id of the API key that asks.

    Attributes:
        first: What was read before anything was told.
    """

    def __init__(self, table: Lookup, telemetry: Telemetry, name: str, child: Process, *, caller: str) -> None:
        self._table, self._telemetry, self._name, self._child = table, telemetry, name, child
        self._caller = caller
        self.first: tuple[dict[str, Any], bytes] | None = None

    async def read(self) -> tuple[dict[str, Any], bytes]:
        """The next frame and its picture, or how it ended; raises if the decoder is not there or died."""
        assert self._child.stdout is not None  # it was asked for
        line = await self._child.stdout.readline()
        if not line:
            if await self._child.wait() == MISSING:
                raise NoDecoderError(
                    "this server cannot decode video: OpenCV is not installed.",
                    fix="Install it there: pip install opencv-python-headless.",
                )
            raise DataError("the video could not be decoded.", fix="Send a complete MP4 or WebM file.")
        told: dict[str, Any] = orjson.loads(line)
        if "error" in told:
            raise DataError(told["error"], fix="Send a complete video: MP4, WebM, Matroska, AVI, MPEG.")
        return told, await self._child.stdout.readexactly(told.get("bytes", 0))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One event a frame, in the order of time, and the summary; frames ahead are answered meanwhile."""
        queue: asyncio.Queue[tuple[dict[str, Any], asyncio.Task[dict[str, Any]] | None]] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._ahead(queue))
        began, answered, refused = time.monotonic(), 0, 0
        waiting: asyncio.Task[dict[str, Any]] | None = None
        try:
            while True:
                told, waiting = await queue.get()
                if waiting is None:
                    break
                event = await waiting
                answered, refused = answered + ("answer" in event), refused + ("error" in event)
                yield _event("frame", {"frame": told["frame"], "time_s": told["time_s"], **event}, told["frame"])
            if "error" in told:
                yield _event("error", told)
                return
            seconds = time.monotonic() - began
            counts = {"model": self._name, "frames": told["decoded"], "answered": answered, "refused": refused}
            yield _event("summary", {**counts, "cut": told["cut"], "seconds": round(seconds, 3)})
        finally:
            reading.cancel()
            while not queue.empty():
                if (task := queue.get_nowait()[1]) is not None:
                    task.cancel()
            if waiting is not None:
                waiting.cancel()

    async def _ahead(self, queue: asyncio.Queue[Any]) -> None:
        while True:
            try:
                told, data = self.first or await self.read()
            except LeptonError as error:
                told, data = {"error": str(error)}, b""
            except asyncio.IncompleteReadError:
                told, data = {"error": "the decoder died."}, b""
            self.first = None
            task = asyncio.create_task(self._answer(data)) if "frame" in told else None
            await queue.put((told, task))
            if task is None:
                return

    async def _answer(self, picture: bytes) -> dict[str, Any]:
        try:
            with self._telemetry.watch(self._name, "video") as call:
                live, call.caller = self._table.get(self._name), self._caller
                call.live = live
                if not picture:
                    raise DataError("the frame cannot be decoded.")
                job = SampleJob(picture)
                answer = await live.batcher.ask(job)
                call.samples = job.seen
                return {"version": live.release.version, "answer": answer}
        except LeptonError as error:
            return {"error": str(error)}


class EventStream(Response):
    """Sends events as they come; ends with its client.

    Args:
        frames: Where they come from.
        held: What to let go of at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: Frames, held: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames, self._held = frames, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, unless the client goes before."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._held.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._frames.events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    mark = b"" if number is None else b"id: %d\n" % number
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), mark, body)
