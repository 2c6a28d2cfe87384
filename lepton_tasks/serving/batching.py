"""Natural micro-batching: an idle worker takes whatever is queued, so a lone request never waits for company."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lepton_tasks.codecs.observing import observed
from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.serving.package import Package

_BATCH_SIZES = (2, 4, 8, 16, 32)

_log = logging.getLogger("lepton.serving.batching")


class Job(Protocol):
    """One request's share of a batch; both methods run in a worker thread."""

    def decode(self, package: Package) -> np.ndarray:
        """The request's samples, first axis the batch; raises `DataError` if they cannot be read."""

    def answer(self, package: Package, outputs: Mapping[str, np.ndarray]) -> Any:
        """The reply, from this job's rows of the outputs."""


_Entry = tuple[Job, "asyncio.Future[Any]"]


class Batcher:
    """Worker threads that decode, infer and encode for one loaded package. Made inside the event loop.

    Args:
        package: What answers.
        max_batch: Most samples of one inference (a single larger job still runs whole).
        workers: Threads.
        backlog: Jobs that may wait; beyond it a submission is refused with `UnavailableError`.
    """

    def __init__(self, package: Package, *, max_batch: int, workers: int, backlog: int = 2048) -> None:
        self.package, self.max_batch = package, max_batch
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"infer-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Queue a job; the future holds its answer or its error."""
        if self._queue.qsize() >= self._backlog:
            raise UnavailableError(f"{self._backlog} requests are waiting already.", fix="Send fewer at a time.")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((job, future))
        return future

    def close(self) -> None:
        """Answer what is queued, then end the threads; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait until the threads have ended. Not to be called in the event loop, which must take their answers."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._take()
            if batch:
                answers = answer_all(self.package, [job for job, _ in batch])
                self._loop.call_soon_threadsafe(_settle, [future for _, future in batch], answers)

    def _take(self) -> tuple[list[_Entry], bool]:
        """All that is queued up to the batch size, waiting for the first; False after the end mark."""
        batch: list[_Entry] = []
        entry = self._queue.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) >= self.max_batch:
                return batch, True
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False


def answer_all(package: Package, jobs: Sequence[Job]) -> list[Any]:
    """Each job's answer, or the exception it met; a job that cannot be decoded does not touch the others."""
    answers: list[Any] = [_attempt(job.decode, package) for job in jobs]
    groups: dict[tuple[Any, ...], list[int]] = {}  # samples of free size can only be joined with their like
    for i, samples in enumerate(answers):
        if isinstance(samples, np.ndarray):
            groups.setdefault((samples.dtype, samples.shape[1:]), []).append(i)
    for members in groups.values():
        batch = [answers[i] for i in members]
        outputs = _attempt(package.run, np.concatenate(batch) if len(batch) > 1 else batch[0])
        start = 0
        for i, samples in zip(members, batch, strict=True):
            rows = slice(start, start := start + len(samples))
            if isinstance(outputs, Exception):
                answers[i] = outputs
            else:
                answers[i] = _attempt(jobs[i].answer, package, {name: value[rows] for name, value in outputs.items()})
    return answers


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  # whatever it is, it goes to the one who asked, and the thread lives on
        return error


def _settle(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if future.done():  # the client went away
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def best_batch(package: Package, sample: np.ndarray, *, gain: float = 1.15) -> int:
    """The batch size to serve this package with, by measurement; also warms it up.

    A small CNN gains nothing from batches on a CPU, an embedding ninefold. A larger size is taken as long as it answers
    `gain` times as many samples a second as the best smaller one.

    Args:
        package: What is measured.
        sample: One decoded sample, without batch axis.
        gain: Smallest improvement that is worth the longer wait.
    """
    best, rate = 1, _rate(package, sample, 1)
    for size in _BATCH_SIZES:
        faster = _rate(package, sample, size)
        if faster < rate * gain:
            break
        best, rate = size, faster
    return best


def _rate(package: Package, sample: np.ndarray, size: int) -> float:
    """Samples a second at this batch size: the best of a few runs."""
    batch = np.repeat(sample[np.newaxis], size, axis=0)
    package.run(batch)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        package.run(batch)
        seconds.append(time.perf_counter() - started)
    return size / min(seconds)


class SampleJob:
    """One encoded sample of a predict request, e.g. a picture file.

    Attributes:
        mean: Mean of the decoded values, set when it was decoded.
        std: Their standard deviation.
        values: What its codec tells of it, by name.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.mean: float | None = None
        self.std: float | None = None
        self.values: dict[str, Any] | None = None

    def decode(self, package: Package) -> np.ndarray:
        """The sample with a batch axis of one."""
        if not self.payload:
            raise DataError("the sample is empty.", fix="Send the bytes of a file.")
        sample = package.codec.decode(self.payload)
        self.mean, self.std = float(sample.mean()), float(sample.std())
        try:
            self.values = observed(package.codec, self.payload, sample)
        except Exception:  # noqa: BLE001  # whatever it is, the request is answered all the same
            _log.exception("a sample of %s is logged without its values", package.spec.name)
        return sample[np.newaxis]

    def told(self) -> dict[str, Any]:
        """What the request log keeps of it."""
        return {"bytes": len(self.payload), "mean": self.mean, "std": self.std, "values": self.values}

    def answer(self, package: Package, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The output codec's answer."""
        return package.output_codec.encode(outputs, 0)
