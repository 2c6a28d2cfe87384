"""Python's way to an inference server: `Client` waits for each answer, `AsyncClient` awaits many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from lepton_tasks.core.access import bearer, own_key, trusted
from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.serving import calls
from lepton_tasks.serving.calls import Answer, Call, Inferred


class _Connection:
    """What both clients are made with.

    Args:
        url: The server's address, e.g. ``http://127.0.0.1:8100``.
        timeout: Seconds that a call may take, waiting for a busy server included.
        api_key: What lets us in; without it that of the environment variable ``LEPTON_API_KEY``, if there is one.
            Enrolling needs the admin token.
        ca: PEM file of the authority that signed the server's certificate; without it ``LEPTON_SERVING_CA``, and
            without that the authorities that the system trusts.
        retries: How often a server that is busy (429, 503) is asked again, when it says.
        probe: Why the requests are made up, e.g. ``smoke_test``; monitors leave such requests out.
        transport: Of httpx, in place of the network.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        api_key: str | None = None,
        ca: str | Path | None = None,
        retries: int = 2,
        probe: str = "",
        transport: Any = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        headers = bearer(own_key() if api_key is None else api_key) | ({"lepton-probe": probe} if probe else {})
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "timeout": timeout,
            "headers": headers,
            "verify": trusted(ca),
            "trust_env": False,
            "transport": transport,
        }

    def _request(self, call: Call) -> dict[str, Any]:
        return {
            "method": call.method,
            "url": call.path,
            "params": {name: value for name, value in call.params.items() if value is not None} or None,
            "headers": call.headers,
            "content": call.body,
            "files": call.files,
        }

    def _pause(self, call: Call, answer: Answer, attempt: int, until: float) -> float | None:
        """Seconds to wait before the next attempt; None if this answer is the last."""
        seconds = call.wait(answer, attempt) if attempt < self._retries else None
        return None if seconds is None or time.monotonic() + seconds > until else seconds

    def _silent(self, error: httpx.TransportError) -> LeptonError:
        late = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
        return UnavailableError(
            f"the inference server does not answer: {error or type(error).__name__}.",
            where=self.url,
            fix=f"Allow more than {self._timeout:g} s of `timeout`." if late else "Start it with `lepton up`.",
        )


def _answer(reply: httpx.Response) -> Answer:
    return Answer(
        reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, reply.content, str(reply.url)
    )


class Client(_Connection):
    """Ask a server for predictions. Usable as a context manager, and from several threads.

    with Client("http://127.0.0.1:8100") as client:
        answer = client.predict("mnist_digits", Path("seven.png"))["predictions"][0]
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.Client(**self._options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, name: str, sample: Any, *, version: str | None = None, key: str | None = None) -> dict[str, Any]:
        """Answers in the order of the samples: ``{"model", "version", "predictions": [{"label", ...}]}``.

        Args:
            name: The model.
            sample: Bytes of a file, a `pathlib.Path`, a picture (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a
                mapping of a row's columns, a table (pandas), or a list of one kind of these.
            version: The version that is to answer; None for whichever does.
            key: Who asks: while a canary runs, equal keys meet the same version.

        Raises:
            DataError: the server refuses the request; the reason is its own.
            UnknownModelError: nothing is served under the name.
            ForbiddenError: the API key is missing or wrong; `NotAllowedError` if it is one for other models.
            TooManyError: the API key has used up its rate.
            UnavailableError: it does not answer, is not ready or busy.
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
        """The network's own outputs for a batch of tensors, by the Open Inference Protocol; raises as `predict`.

        Args:
            name: The model.
            inputs: Arrays by name, as `metadata` tells: dtype and shape must be the model's.
            outputs: Names of those wanted; all without them.
            version: The version to ask; whichever answers without it.
            binary: Tensors as bytes; False sends and asks for JSON.
        """
        found: Inferred = self._send(calls.infer(name, inputs, outputs=outputs, version=version, binary=binary))
        return found

    def enrol(self, name: str, id: str, sample: Any) -> dict[str, Any]:
        """Remember samples as those of somebody; needs the admin token as `api_key`."""
        return dict(self._send(calls.samples(name, "enrol", sample, {"id": id})))

    def verify(self, name: str, id: str, sample: Any, *, threshold: float | None = None) -> dict[str, Any]:
        """Whether a sample shows somebody who is enrolled: ``{"same", "similarity", "threshold", ...}``."""
        return dict(self._send(calls.samples(name, "verify", sample, {"id": id, "threshold": threshold})))

    def identify(self, name: str, sample: Any, *, most: int = 3, threshold: float | None = None) -> dict[str, Any]:
        """Who of the enrolled a sample is most alike: ``{"id", "candidates", "threshold", ...}``."""
        return dict(self._send(calls.samples(name, "identify", sample, {"most": most, "threshold": threshold})))

    def enrolled(self, name: str) -> dict[str, int]:
        """How many samples there are of each person, by id; needs the admin token."""
        return dict((self._send(Call("GET", calls.path_of(name, "gallery"))))["known"])

    def forget(self, name: str, id: str) -> int:
        """Forget somebody; returns how many samples there were. Needs the admin token."""
        return int((self._send(Call("DELETE", calls.path_of(name, "gallery"), {"id": id})))["samples"])

    def models(self) -> list[dict[str, Any]]:
        """What is served."""
        return list((self._send(Call("GET", "/v1/models")))["models"])

    def model(self, name: str) -> dict[str, Any]:
        """One model: version, digest, what it takes, labels, test metrics."""
        return dict(self._send(Call("GET", calls.path_of(name))))

    def metadata(self, name: str) -> dict[str, Any]:
        """Names, datatypes and shapes of the tensors that the model takes and gives."""
        return dict(self._send(Call("GET", calls.path_of(name).replace("/v1/", "/v2/", 1))))

    def ready(self) -> bool:
        """Whether the server answers and has loaded what it serves."""
        try:
            return bool((self._send(Call("GET", "/v2/health/ready", retried=False)))["ready"])
        except UnavailableError:
            return False

    def _send(self, call: Call) -> Any:
        until = time.monotonic() + self._timeout
        attempt = 0
        while True:
            try:
                answer = _answer(self._http.request(**self._request(call)))
            except httpx.TransportError as error:
                raise self._silent(error) from error
            seconds = self._pause(call, answer, attempt, until)
            if seconds is None:
                return call.result(answer)
            time.sleep(seconds)
            attempt += 1


class AsyncClient(_Connection):
    """As `Client`, for an event loop: ``async with AsyncClient(url) as client: await client.predict(...)``."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._http = httpx.AsyncClient(**self._options)

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
        """Answers in the order of the samples: ``{"model", "version", "predictions": [{"label", ...}]}``.

        Args:
            name: The model.
            sample: Bytes of a file, a `pathlib.Path`, a picture (PIL, or NumPy uint8 [H, W] or [H, W, C]), a text, a
                mapping of a row's columns, a table (pandas), or a list of one kind of these.
            version: The version that is to answer; None for whichever does.
            key: Who asks: while a canary runs, equal keys meet the same version.

        Raises:
            DataError: the server refuses the request; the reason is its own.
            UnknownModelError: nothing is served under the name.
            ForbiddenError: the API key is missing or wrong; `NotAllowedError` if it is one for other models.
            TooManyError: the API key has used up its rate.
            UnavailableError: it does not answer, is not ready or busy.
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
        """The network's own outputs for a batch of tensors, by the Open Inference Protocol; raises as `predict`.

        Args:
            name: The model.
            inputs: Arrays by name, as `metadata` tells: dtype and shape must be the model's.
            outputs: Names of those wanted; all without them.
            version: The version to ask; whichever answers without it.
            binary: Tensors as bytes; False sends and asks for JSON.
        """
        found: Inferred = await self._send(calls.infer(name, inputs, outputs=outputs, version=version, binary=binary))
        return found

    async def enrol(self, name: str, id: str, sample: Any) -> dict[str, Any]:
        """Remember samples as those of somebody; needs the admin token as `api_key`."""
        return dict(await self._send(calls.samples(name, "enrol", sample, {"id": id})))

    async def verify(self, name: str, id: str, sample: Any, *, threshold: float | None = None) -> dict[str, Any]:
        """Whether a sample shows somebody who is enrolled: ``{"same", "similarity", "threshold", ...}``."""
        return dict(await self._send(calls.samples(name, "verify", sample, {"id": id, "threshold": threshold})))

    async def identify(
        self, name: str, sample: Any, *, most: int = 3, threshold: float | None = None
    ) -> dict[str, Any]:
        """Who of the enrolled a sample is most alike: ``{"id", "candidates", "threshold", ...}``."""
        return dict(await self._send(calls.samples(name, "identify", sample, {"most": most, "threshold": threshold})))

    async def enrolled(self, name: str) -> dict[str, int]:
        """How many samples there are of each person, by id; needs the admin token."""
        return dict((await self._send(Call("GET", calls.path_of(name, "gallery"))))["known"])

    async def forget(self, name: str, id: str) -> int:
        """Forget somebody; returns how many samples there were. Needs the admin token."""
        return int((await self._send(Call("DELETE", calls.path_of(name, "gallery"), {"id": id})))["samples"])

    async def models(self) -> list[dict[str, Any]]:
        """What is served."""
        return list((await self._send(Call("GET", "/v1/models")))["models"])

    async def model(self, name: str) -> dict[str, Any]:
        """One model: version, digest, what it takes, labels, test metrics."""
        return dict(await self._send(Call("GET", calls.path_of(name))))

    async def metadata(self, name: str) -> dict[str, Any]:
        """Names, datatypes and shapes of the tensors that the model takes and gives."""
        return dict(await self._send(Call("GET", calls.path_of(name).replace("/v1/", "/v2/", 1))))

    async def ready(self) -> bool:
        """Whether the server answers and has loaded what it serves."""
        try:
            return bool((await self._send(Call("GET", "/v2/health/ready", retried=False)))["ready"])
        except UnavailableError:
            return False

    async def _send(self, call: Call) -> Any:
        until = time.monotonic() + self._timeout
        attempt = 0
        while True:
            try:
                answer = _answer(await self._http.request(**self._request(call)))
            except httpx.TransportError as error:
                raise self._silent(error) from error
            seconds = self._pause(call, answer, attempt, until)
            if seconds is None:
                return call.result(answer)
            await asyncio.sleep(seconds)
            attempt += 1
