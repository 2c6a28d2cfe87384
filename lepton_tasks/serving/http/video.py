"""``/v1/models/<name>/video``: predictions for the frames of a video, as server-sent events."""

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
from lepton_tasks.serving.http.video_input import Sources, VideoLimits, save_upload
from lepton_tasks.serving.inference.samples import SampleJob
from lepton_tasks.serving.observing.telemetry import Telemetry
from lepton_tasks.serving.versions.lookup import Lookup

_MAX_FRAMES_IN_FLIGHT = 4  # per video


def video_router(
    table: Lookup, telemetry: Telemetry, home: Path, *, sources: Sources, limits: VideoLimits | None = None
) -> APIRouter:
    """The video route."""
    limits = limits or VideoLimits()
    router = APIRouter(prefix="/v1", tags=["predict"])
    slots = asyncio.Semaphore(limits.concurrent)

    @router.post("/models/{name}/video", responses={**ERRORS, **_VIDEO_RESPONSES}, openapi_extra=video_body())
    async def video(
        name: str,
        request: Request,
        fps: Annotated[float, Query(gt=0, le=1000, description="Frames per second to sample.")] = 1.0,
        differences: Annotated[bool, Query(description="Process the change since the previous frame.")] = False,
        source: Annotated[str, Query(max_length=2000, description="Address to open instead of a body.")] = "",
    ) -> Response:
        """Predict the frames of a video, as server-sent events: one ``frame`` each, and a ``summary`` at the end."""
        if not table.get(name).package.codec.media_type.startswith("image/"):
            raise MediaTypeError(f"{name!r} does not accept images, so it cannot process video.")
        location = sources.checked(source) if source else ""
        if slots.locked():
            raise UnavailableError(f"{limits.concurrent} videos are already being processed.", fix="Try again later.")
        resources = contextlib.AsyncExitStack()
        try:
            await slots.acquire()
            resources.callback(slots.release)
            upload = None if location else resources.enter_context(await save_upload(request, limits, home))
            child = await _start_decoder(location, upload, limits, fps=fps, differences=differences)
            resources.push_async_callback(_kill, child)
            frames = Frames(table, telemetry, name, child, caller=request.state.key)
            frames.first = await frames.read()  # before the response starts, so that errors get an HTTP status
        except BaseException:
            await resources.aclose()
            raise
        return EventStream(frames, resources)

    return router


_VIDEO_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events: frame, summary, error."},
    403: ERRORS[400] | {"description": "A source that the server may not open."},
    501: ERRORS[400] | {"description": "The server has no video decoder."},
}


async def _start_decoder(
    location: str, upload: IO[bytes] | None, limits: VideoLimits, *, fps: float, differences: bool
) -> Process:
    handles = () if upload is None else (upload.fileno(),)
    path = f"/proc/self/fd/{handles[0]}" if handles else location
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


async def _kill(child: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()


class Frames:
    """Predictions for the frames of one video.

    Args:
        table: Routes requests to versions.
        telemetry: Records every frame as a request.
        name: The model.
        child: Decoder process.
        caller: Id of the API key.

    Attributes:
        first: The first frame, read before the response starts.
    """

    def __init__(self, table: Lookup, telemetry: Telemetry, name: str, child: Process, *, caller: str) -> None:
        self._table, self._telemetry, self._name, self._child = table, telemetry, name, child
        self._caller = caller
        self.first: tuple[dict[str, Any], bytes] | None = None

    async def read(self) -> tuple[dict[str, Any], bytes]:
        """The next frame's header and image, or the final record; raises if OpenCV is missing or the decoder died."""
        assert self._child.stdout is not None  # created with PIPE
        line = await self._child.stdout.readline()
        if not line:
            if await self._child.wait() == MISSING:
                raise NoDecoderError(
                    "this server cannot decode video: OpenCV is not installed.",
                    fix="Install it there: pip install opencv-python-headless.",
                )
            raise DataError("the video could not be decoded.", fix="Send a complete MP4 or WebM file.")
        header: dict[str, Any] = orjson.loads(line)
        if "error" in header:
            raise DataError(header["error"], fix="Send a complete video: MP4, WebM, Matroska, AVI, MPEG.")
        return header, await self._child.stdout.readexactly(header.get("bytes", 0))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One event per frame, in order, then the summary; the following frames are processed meanwhile."""
        queue: asyncio.Queue[tuple[dict[str, Any], asyncio.Task[dict[str, Any]] | None]] = asyncio.Queue(
            _MAX_FRAMES_IN_FLIGHT
        )
        reading = asyncio.create_task(self._read_ahead(queue))
        began, answered, refused = time.monotonic(), 0, 0
        waiting: asyncio.Task[dict[str, Any]] | None = None
        try:
            while True:
                header, waiting = await queue.get()
                if waiting is None:
                    break
                event = await waiting
                answered, refused = answered + ("answer" in event), refused + ("error" in event)
                yield _event("frame", {"frame": header["frame"], "time_s": header["time_s"], **event}, header["frame"])
            if "error" in header:
                yield _event("error", header)
                return
            seconds = time.monotonic() - began
            counts = {"model": self._name, "frames": header["decoded"], "answered": answered, "refused": refused}
            yield _event("summary", {**counts, "cut": header["cut"], "seconds": round(seconds, 3)})
        finally:
            reading.cancel()
            while not queue.empty():
                if (task := queue.get_nowait()[1]) is not None:
                    task.cancel()
            if waiting is not None:
                waiting.cancel()

    async def _read_ahead(self, queue: asyncio.Queue[Any]) -> None:
        while True:
            try:
                header, data = self.first or await self.read()
            except LeptonError as error:
                header, data = {"error": str(error)}, b""
            except asyncio.IncompleteReadError:
                header, data = {"error": "the decoder died."}, b""
            self.first = None
            task = asyncio.create_task(self._predict(data)) if "frame" in header else None
            await queue.put((header, task))
            if task is None:
                return

    async def _predict(self, picture: bytes) -> dict[str, Any]:
        try:
            with self._telemetry.watch(self._name, "video") as call:
                live, call.caller = self._table.get(self._name), self._caller
                call.live = live
                if not picture:
                    raise DataError("the frame cannot be decoded.")
                job = SampleJob(picture)
                answer = await live.batcher.submit_future(job)
                call.samples = job.sample_records
                return {"version": live.release.version, "answer": answer}
        except LeptonError as error:
            return {"error": str(error)}


class EventStream(Response):
    """Streams the events until the end or until the client disconnects.

    Args:
        frames: Source of the events.
        resources: Closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: Frames, resources: contextlib.AsyncExitStack) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames, self._resources = frames, resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events, unless the client disconnects first."""
        sending = asyncio.create_task(self._send(send))
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((sending, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, disconnect):
                task.cancel()
            await asyncio.gather(sending, disconnect, return_exceptions=True)
            await self._resources.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._frames.events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    event_id = b"" if number is None else b"id: %d\n" % number
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), event_id, body)
