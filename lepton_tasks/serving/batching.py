"""Natural micro-batching: an idle worker takes whatever is queued, so a lone request never waits for company."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.serving.errors import DeadlineError
from lepton_tasks.serving.package import Package

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_TURNS = 5
_NEARLY = 0.87  # of the best rate
_LONG_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 0.5  # what more would wait for is refused at once
_LEAST_BACKLOG, _MOST_BACKLOG = 64, 4096  # jobs

Outputs = Mapping[str, np.ndarray]


class Job(Protocol):
    """One request's share of a batch; both methods run in a worker thread."""

    def decode(self, package: Package) -> Sequence[np.ndarray]:
        """The request's samples: arrays whose first axis is the batch; raises `DataError` if they cannot be read."""

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> Any:
        """The reply, from the outputs for each of the arrays."""


@dataclasses.dataclass(slots=True)
class Ticket:
    """A job in the queue.

    Attributes:
        job: The job.
        done: Called in the event loop with its answer, or with the exception it met.
        deadline: Time (`time.perf_counter`) after which nobody waits for the answer.
        queued: When it was queued.
        taken: When a worker took it; 0 before.
        cancelled: Set once nobody wants the answer; a worker then passes over it.
    """

    job: Job
    done: Callable[[Any], None]
    deadline: float
    queued: float
    taken: float = 0.0
    cancelled: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Timings:
    """How long the stages of a batch took, in seconds."""

    jobs: int
    decode: float
    run: float
    encode: float


class Batcher:
    """Worker threads that decode, infer and encode for one loaded package. Made inside the event loop.

    Args:
        package: What answers.
        max_batch: Most jobs of one inference.
        workers: Threads.
        rate: Samples a second that it was seen to answer; how many jobs may wait follows from it.
        backlog: Jobs that may wait, instead; beyond it a submission is refused with `UnavailableError`.
        observe: Told of every batch, in the event loop.
    """

    def __init__(
        self,
        package: Package,
        *,
        max_batch: int,
        workers: int,
        rate: float = math.inf,
        backlog: int | None = None,
        observe: Callable[[Timings], None] | None = None,
    ) -> None:
        self.package, self.max_batch = package, max_batch
        fitting = int(min(_MOST_BACKLOG, max(_LEAST_BACKLOG, rate * workers * _LONGEST_WAIT_SECONDS)))
        self.backlog = fitting if backlog is None else backlog
        self._observe = observe
        self.mirror: Callable[[Sequence[Job]], None] | None = None
        """Told of the jobs of every batch once they are answered, in the worker thread; must return at once."""
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"infer-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def depth(self) -> int:
        """How many jobs wait."""
        return self._queue.qsize()

    def submit(self, job: Job, done: Callable[[Any], None], *, seconds: float = math.inf) -> Ticket:
        """Queue a job; `done` is called in the event loop with its answer or its error.

        Args:
            job: The job.
            done: What is told.
            seconds: After them the job is not begun any more, and gets a `DeadlineError`.
        """
        if self._queue.qsize() >= self.backlog:
            raise UnavailableError(f"{self.backlog} requests are waiting already.", fix="Send fewer at a time.")
        now = time.perf_counter()
        ticket = Ticket(job, done, now + seconds, now)
        self._queue.put(ticket)
        return ticket

    def ask(self, job: Job) -> asyncio.Future[Any]:
        """Queue a job; the future holds its answer or its error."""
        future: asyncio.Future[Any] = self._loop.create_future()
        ticket = self.submit(job, lambda answer: _resolve(future, answer))
        future.add_done_callback(lambda done: setattr(ticket, "cancelled", done.cancelled()))
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
                answers, timings = answer_all(self.package, [ticket.job for ticket in batch])
                self._loop.call_soon_threadsafe(self._settle, batch, answers, timings)
                if (mirror := self.mirror) is not None:
                    mirror([ticket.job for ticket in batch])

    def _take(self) -> tuple[list[Ticket], bool]:
        """All that is queued up to the batch size, waiting for the first; False after the end mark."""
        batch: list[Ticket] = []
        ticket = self._queue.get()
        while ticket is not None:
            now = ticket.taken = time.perf_counter()
            if ticket.deadline < now:
                late = DeadlineError("the answer would have come too late, so it was not computed.")
                self._loop.call_soon_threadsafe(self._settle, [ticket], [late], None)
            elif not ticket.cancelled:
                batch.append(ticket)
            if len(batch) >= self.max_batch:
                return batch, True
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _settle(self, batch: Sequence[Ticket], answers: Sequence[Any], timings: Timings | None) -> None:
        for ticket, answer in zip(batch, answers, strict=True):
            if not ticket.cancelled:
                ticket.done(answer)
        if timings is not None and self._observe is not None:
            self._observe(timings)


def answer_all(package: Package, jobs: Sequence[Job]) -> tuple[list[Any], Timings]:
    """Each job's answer, or the exception it met; a job that cannot be decoded does not touch the others."""
    began = time.perf_counter()
    answers: list[Any] = [_attempt(job.decode, package) for job in jobs]
    groups: dict[tuple[Any, ...], list[tuple[int, int]]] = {}  # samples of free size can only join their like
    for i, arrays in enumerate(answers):
        if not isinstance(arrays, Exception):
            for j, samples in enumerate(arrays):
                groups.setdefault((samples.dtype, samples.shape[1:]), []).append((i, j))
    decoded = time.perf_counter()
    parts: dict[tuple[int, int], Any] = {}
    for members in groups.values():
        parts |= _run(package, answers, members)
    ran = time.perf_counter()
    for i, arrays in enumerate(answers):
        if not isinstance(arrays, Exception):
            outputs = [parts[i, j] for j in range(len(arrays))]
            failed = next((part for part in outputs if isinstance(part, Exception)), None)
            answers[i] = failed or _attempt(jobs[i].answer, package, outputs)
    return answers, Timings(len(jobs), decoded - began, ran - decoded, time.perf_counter() - ran)


def _run(
    package: Package, arrays: Sequence[Sequence[np.ndarray]], members: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Any]:
    """The outputs for some of the jobs' arrays, which go as one batch; or the exception that met it."""
    batch = [arrays[i][j] for i, j in members]
    outputs = _attempt(package.run, np.concatenate(batch) if len(batch) > 1 else batch[0])
    if isinstance(outputs, Exception) or len(batch) == 1:
        return dict.fromkeys(members, outputs)
    parts, start = {}, 0
    for member, samples in zip(members, batch, strict=True):
        rows = slice(start, start := start + len(samples))
        parts[member] = {name: value[rows] for name, value in outputs.items()}
    return parts


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the call returns or raises."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  # whatever it is, it goes to the one who asked, and the thread lives on
        return error


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # the client went away
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def best_batch(package: Package, sample: np.ndarray) -> tuple[int, float]:
    """The batch size to serve this package with, by measurement, and the samples a second it gives; also warms it up.

    A small CNN gains nothing from batches on a CPU, an embedding ninefold. Taken is the smallest size that gives nearly
    the best rate. The sizes are measured in turns, because other work on the machine comes and goes.

    Args:
        package: What is measured.
        sample: One decoded sample, without batch axis.
    """
    batches = [np.repeat(sample[np.newaxis], size, axis=0) for size in _BATCH_SIZES]
    seconds = [math.inf] * len(batches)
    for turn in range(_TURNS + 1):
        for i, batch in enumerate(batches):
            started = time.perf_counter()
            package.run(batch)
            took = time.perf_counter() - started
            if turn or took > _LONG_SECONDS:  # the first is for warming up, unless one is enough
                seconds[i] = min(seconds[i], took)
            if took > _LONG_SECONDS:  # a larger one would make requests wait for longer than it is worth
                del batches[i + 1 :], seconds[i + 1 :]
    rates = [size / max(took, 1e-9) for size, took in zip(_BATCH_SIZES, seconds, strict=False)]
    best = next(i for i, rate in enumerate(rates) if rate >= _NEARLY * max(rates))
    return _BATCH_SIZES[best], rates[best]
