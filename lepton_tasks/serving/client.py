"""Python clients of the inference server: `Client` (blocking) and `AsyncClient` (asyncio)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.serving import calls
from lepton_tasks.serving.calls import Call, Inferred
from lepton_tasks.serving.connection import Connection, answer_of


class Client(Connection):
    """Blocking client of the inference server. A context manager; thread-safe.

    with Client("http://127.0.0.1:8100") as client:
        answer = client.predict("mnist_digits", Path("seven.png"))["predictions"][0]
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.Client(**self.options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, name: str, sample: Any, *, version: str | None = None, key: str | None = None) -> dict[str, Any]:
        """Predictions in the order of the samples: ``{"model", "version", "predictions": [{"label", ...}]}``.

        Args:
            name: The model.
            sample: Bytes of a file, a `pathlib.Path`, an image (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a
                mapping of a row's columns, a table (pandas), or a list of one kind of these.
            version: Model version; None for the served one.
            key: Routing key, e.g. a user id: during a canary, equal keys get the same version.

        Raises:
            DataError: the request is invalid.
            UnknownModelError: there is no such model or version.
            ForbiddenError: the API key is missing or wrong; `NotAllowedError` if it is not valid for this model.
            TooManyError: the rate limit of the API key is exceeded.
            UnavailableError: the server does not respond, is not ready or busy.
        """
        return dict(self._send(calls.predict(name, sample, version=version, key=key)))

    def infer(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        outputs: Sequence[str] = (),
        version: str | None = None,
        binary: bool = True,
    ) -> Inferred:
        """The network's outputs for a batch of tensors, by the Open Inference Protocol; raises as `predict`.

        Args:
            name: The model.
            inputs: Arrays by name, with dtype and shape as in `metadata`.
            outputs: Names of the outputs to return; all by default.
            version: Model version; None for the served one.
            binary: Whether to transfer tensors as bytes instead of JSON.
        """
        found: Inferred = self._send(calls.infer(name, inputs, outputs=outputs, version=version, binary=binary))
        return found

    def video(
        self, name: str, video: Path | bytes | str, *, fps: float = 1.0, differences: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Predictions for the frames of a video, streamed; raises as `predict`, also during iteration.

        Each sampled frame yields ``{"event": "frame", "frame", "time_s", "version", "answer"}``, with ``error`` instead
        of ``answer`` if it failed; the last event is ``{"event": "summary", "answered", ...}``.

        Args:
            name: The model.
            video: A file, its bytes, or a URL or path that the server opens.
            fps: Frames per second to sample.
            differences: Use the change since the previous frame, for models trained on that.
        """
        call, events = calls.video(name, video, fps=fps, differences=differences), calls.Events()
        with contextlib.ExitStack() as stack:
            request = self.request_of(call)
            if isinstance(video, Path):
                request["content"] = stack.enter_context(video.open("rb"))
            try:
                waits = httpx.Timeout(self.timeout, read=None)
                reply = stack.enter_context(self._http.stream(**request, timeout=waits))
                if not reply.is_success:
                    reply.read()
                    call.result(answer_of(reply))
                yield from filter(None, map(events.feed, reply.iter_lines()))
            except httpx.TransportError as error:
                raise self.silent(error) from error

    def feedback(self, name: str, outcomes: Mapping[str, str | float]) -> int:
        """Report true labels or numbers by the ``id`` of the prediction response; returns how many were stored.

        For a response with several predictions, the ids are ``<id>/0``, ``<id>/1`` and so on.
        """
        return int(self._send(calls.feedback(name, outcomes)))

    def enrol(self, name: str, id: str, sample: Any) -> dict[str, Any]:
        """Enrol samples of a person; requires the admin token as `api_key`."""
        return dict(self._send(calls.samples(name, "enrol", sample, {"id": id})))

    def verify(self, name: str, id: str, sample: Any, *, threshold: float | None = None) -> dict[str, Any]:
        """Whether a sample shows an enrolled person: ``{"same", "similarity", "threshold", ...}``."""
        return dict(self._send(calls.samples(name, "verify", sample, {"id": id, "threshold": threshold})))

    def identify(self, name: str, sample: Any, *, most: int = 3, threshold: float | None = None) -> dict[str, Any]:
        """The enrolled people most similar to a sample: ``{"id", "candidates", "threshold", ...}``."""
        return dict(self._send(calls.samples(name, "identify", sample, {"most": most, "threshold": threshold})))

    def enrolled(self, name: str) -> dict[str, int]:
        """Number of samples per person id; requires the admin token."""
        return dict((self._send(Call("GET", calls.path_of(name, "gallery"))))["known"])

    def forget(self, name: str, id: str) -> int:
        """Delete a person; returns the number of deleted samples. Requires the admin token."""
        return int((self._send(Call("DELETE", calls.path_of(name, "gallery"), {"id": id})))["samples"])

    def models(self) -> list[dict[str, Any]]:
        """All deployed models."""
        return list((self._send(Call("GET", "/v1/models")))["models"])

    def model(self, name: str) -> dict[str, Any]:
        """One model: version, digest, media type, labels, test metrics."""
        return dict(self._send(Call("GET", calls.path_of(name))))

    def metadata(self, name: str) -> dict[str, Any]:
        """Names, datatypes and shapes of the model's input and output tensors."""
        return dict(self._send(Call("GET", calls.path_of(name).replace("/v1/", "/v2/", 1))))

    def ready(self) -> bool:
        """Whether the server responds and has loaded its models."""
        try:
            return bool(self._send(calls.READY))
        except UnavailableError:
            return False

    def _send(self, call: Call) -> Any:
        until = time.monotonic() + self.timeout
        attempt = 0
        while True:
            try:
                answer = answer_of(self._http.request(**self.request_of(call)))
            except httpx.TransportError as error:
                raise self.silent(error) from error
            seconds = self.pause(call, answer, attempt, until)
            if seconds is None:
                return call.result(answer)
            time.sleep(seconds)
            attempt += 1


class AsyncClient(Connection):
    """Asyncio version of `Client`: ``async with AsyncClient(url) as client: await client.predict(...)``."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.AsyncClient(**self.options)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self, name: str, sample: Any, *, version: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Predictions in the order of the samples: ``{"model", "version", "predictions": [{"label", ...}]}``.

        Args:
            name: The model.
            sample: Bytes of a file, a `pathlib.Path`, an image (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a
                mapping of a row's columns, a table (pandas), or a list of one kind of these.
            version: Model version; None for the served one.
            key: Routing key, e.g. a user id: during a canary, equal keys get the same version.

        Raises:
            DataError: the request is invalid.
            UnknownModelError: there is no such model or version.
            ForbiddenError: the API key is missing or wrong; `NotAllowedError` if it is not valid for this model.
            TooManyError: the rate limit of the API key is exceeded.
            UnavailableError: the server does not respond, is not ready or busy.
        """
        return dict(await self._send(calls.predict(name, sample, version=version, key=key)))

    async def infer(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        outputs: Sequence[str] = (),
        version: str | None = None,
        binary: bool = True,
    ) -> Inferred:
        """The network's outputs for a batch of tensors, by the Open Inference Protocol; raises as `predict`.

        Args:
            name: The model.
            inputs: Arrays by name, with dtype and shape as in `metadata`.
            outputs: Names of the outputs to return; all by default.
            version: Model version; None for the served one.
            binary: Whether to transfer tensors as bytes instead of JSON.
        """
        found: Inferred = await self._send(calls.infer(name, inputs, outputs=outputs, version=version, binary=binary))
        return found

    async def video(
        self, name: str, video: Path | bytes | str, *, fps: float = 1.0, differences: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """As `Client.video`."""
        call, events = calls.video(name, video, fps=fps, differences=differences), calls.Events()
        request = self.request_of(call)
        if isinstance(video, Path):
            request["content"] = _parts(video)
        try:
            waits = httpx.Timeout(self.timeout, read=None)
            async with self._http.stream(**request, timeout=waits) as reply:
                if not reply.is_success:
                    await reply.aread()
                    call.result(answer_of(reply))
                async for line in reply.aiter_lines():
                    if event := events.feed(line):
                        yield event
        except httpx.TransportError as error:
            raise self.silent(error) from error

    async def feedback(self, name: str, outcomes: Mapping[str, str | float]) -> int:
        """As `Client.feedback`."""
        return int(await self._send(calls.feedback(name, outcomes)))

    async def enrol(self, name: str, id: str, sample: Any) -> dict[str, Any]:
        """Enrol samples of a person; requires the admin token as `api_key`."""
        return dict(await self._send(calls.samples(name, "enrol", sample, {"id": id})))

    async def verify(self, name: str, id: str, sample: Any, *, threshold: float | None = None) -> dict[str, Any]:
        """Whether a sample shows an enrolled person: ``{"same", "similarity", "threshold", ...}``."""
        return dict(await self._send(calls.samples(name, "verify", sample, {"id": id, "threshold": threshold})))

    async def identify(
        self, name: str, sample: Any, *, most: int = 3, threshold: float | None = None
    ) -> dict[str, Any]:
        """The enrolled people most similar to a sample: ``{"id", "candidates", "threshold", ...}``."""
        return dict(await self._send(calls.samples(name, "identify", sample, {"most": most, "threshold": threshold})))

    async def enrolled(self, name: str) -> dict[str, int]:
        """Number of samples per person id; requires the admin token."""
        return dict((await self._send(Call("GET", calls.path_of(name, "gallery"))))["known"])

    async def forget(self, name: str, id: str) -> int:
        """Delete a person; returns the number of deleted samples. Requires the admin token."""
        return int((await self._send(Call("DELETE", calls.path_of(name, "gallery"), {"id": id})))["samples"])

    async def models(self) -> list[dict[str, Any]]:
        """All deployed models."""
        return list((await self._send(Call("GET", "/v1/models")))["models"])

    async def model(self, name: str) -> dict[str, Any]:
        """One model: version, digest, media type, labels, test metrics."""
        return dict(await self._send(Call("GET", calls.path_of(name))))

    async def metadata(self, name: str) -> dict[str, Any]:
        """Names, datatypes and shapes of the model's input and output tensors."""
        return dict(await self._send(Call("GET", calls.path_of(name).replace("/v1/", "/v2/", 1))))

    async def ready(self) -> bool:
        """Whether the server responds and has loaded its models."""
        try:
            return bool(await self._send(calls.READY))
        except UnavailableError:
            return False

    async def _send(self, call: Call) -> Any:
        until = time.monotonic() + self.timeout
        attempt = 0
        while True:
            try:
                answer = answer_of(await self._http.request(**self.request_of(call)))
            except httpx.TransportError as error:
                raise self.silent(error) from error
            seconds = self.pause(call, answer, attempt, until)
            if seconds is None:
                return call.result(answer)
            await asyncio.sleep(seconds)
            attempt += 1


async def _parts(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        while part := await asyncio.to_thread(stream.read, 1 << 20):
            yield part
