"""Micro-batching without delay: an idle worker takes all queued requests, so a single request never waits."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
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

_MAX_WAIT_SECONDS = 0.25  # queue limit per model in seconds of work; longer when other processes share the cores
_QUEUE_SHARE = 8  # a batch of 1/8 of the queue hardly lengthens the waiting time
_MIN_BACKLOG, _MAX_BACKLOG = 64, 4096  # jobs

Outputs = Mapping[str, np.ndarray]

_log = logging.getLogger("lepton.serving.batching")


class Job(Protocol):
    """One request of a batch; both methods usually run in a worker thread."""

    def decode(self, package: Package) -> Sequence[np.ndarray]:
        """The request's samples: arrays whose first axis is the batch; raises `DataError` if they are invalid."""

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> Any:
        """The reply, from the outputs for each array."""


@dataclasses.dataclass(slots=True)
class Ticket:
    """A queued job. Times are of `time.perf_counter`.

    Attributes:
        job: The job.
        done: Called in the event loop with the result or exception.
        deadline: Latest start time.
        queued: Time of submission.
        taken: Time a worker took it; 0 before.
        cancelled: Whether the result is no longer wanted; workers skip the job.
        timings: Of its batch, once that has run.
    """

    job: Job
    done: Callable[[Any], None]
    deadline: float
    queued: float
    taken: float = 0.0
    cancelled: bool = False
    timings: Timings | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the stages of a batch took; `began` is a `time.perf_counter`."""

    jobs: int
    began: float
    decode: float
    run: float
    encode: float


class Batcher:
    """Decodes, infers and encodes for one loaded package. Created inside the event loop.

    Jobs run in worker threads. Small ones may run in the event loop, where those of one iteration form a batch: passing
    a job and the GIL to another thread and back takes about as long as a whole request of a tiny model.

    Args:
        package: The loaded package.
        max_batch: Maximum jobs per inference.
        burst_batch: The same with a long queue, up to an eighth of it. Even if inference gains nothing from batching,
            threads are then woken once per batch instead of once per job.
        workers: Number of threads.
        inline_bytes: Maximum request size in bytes for running in the event loop.
        inline_when_busy: Whether jobs run there even while others are in progress.
        rate: Measured samples per second and thread; sets the default backlog.
        backlog: Maximum number of queued jobs; above it, submissions raise `UnavailableError`.
        observe: Called with the timings of every batch, in the event loop.
    """

    def __init__(
        self,
        package: Package,
        *,
        max_batch: int,
        workers: int,
        burst_batch: int = 0,
        inline_bytes: int = 0,
        inline_when_busy: bool = False,
        rate: float = math.inf,
        backlog: int | None = None,
        observe: Callable[[Timings], None] | None = None,
    ) -> None:
        self.package, self.max_batch = package, max_batch
        default = int(min(_MAX_BACKLOG, max(_MIN_BACKLOG, rate * workers * _MAX_WAIT_SECONDS)))
        self.backlog = default if backlog is None else backlog
        self.mirror: Callable[[Sequence[Job]], None] | None = None
        """Called with the jobs of every finished batch, in any thread; must not block."""
        self._burst_batch = burst_batch
        self._observe, self._inline_bytes = observe, inline_bytes
        self._max_open_inline = math.inf if inline_when_busy else 0
        self._open = 0  # jobs submitted and not finished
        self._inline: collections.deque[Ticket] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run_worker, name=f"infer-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def depth(self) -> int:
        """Number of queued jobs."""
        return self._queue.qsize() + len(self._inline)

    @property
    def full(self) -> bool:
        """Whether the backlog limit is reached."""
        return self._queue.qsize() + len(self._inline) >= self.backlog  # `depth` inlined: called most under overload

    def submit(
        self, job: Job, done: Callable[[Any], None], *, seconds: float = math.inf, size: float = math.inf
    ) -> Ticket:
        """Queue a job.

        Args:
            job: The job.
            done: Called in the event loop with the result or exception.
            seconds: Deadline for starting; afterwards the job gets a `DeadlineError`.
            size: Bytes of the request.

        Raises:
            UnavailableError: the queue is full.
        """
        if self.full:
            raise queue_full(self.backlog)
        now = time.perf_counter()
        ticket = Ticket(job, done, now + seconds, now)
        if size <= self._inline_bytes and self._open <= self._max_open_inline:
            self._inline.append(ticket)
            if len(self._inline) == 1:
                self._loop.call_soon(self._run_inline)
        else:
            self._queue.put(ticket)
        self._open += 1
        return ticket

    def submit_future(self, job: Job) -> asyncio.Future[Any]:
        """Queue a job; returns a future of its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        ticket = self.submit(job, lambda answer: _resolve(future, answer))
        future.add_done_callback(lambda done: setattr(ticket, "cancelled", done.cancelled()))
        return future

    def close(self) -> None:
        """Finish the queued jobs, then end the threads; does not wait for them."""
        for _ in self._threads:
            self._queue.put(None)

    def join(self) -> None:
        """Wait for the threads to end. Must not be called in the event loop, which delivers their results."""
        for thread in self._threads:
            thread.join()

    def _run_worker(self) -> None:
        more = True
        while more:
            taken, more = self._take()
            if taken:
                self._loop.call_soon_threadsafe(self._deliver, taken, *self._answers(taken))
                self._mirror_batch(taken)

    def _take(self) -> tuple[list[Ticket], bool]:
        """Queued jobs up to the batch size, waiting for the first; False after the end marker."""
        batch: list[Ticket] = []
        ticket = self._queue.get()
        most = max(self.max_batch, min(self._burst_batch, self._queue.qsize() // _QUEUE_SHARE))
        while ticket is not None:
            batch.append(ticket)
            if len(batch) >= most:
                return batch, True
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _run_inline(self) -> None:
        """Run one batch in the event loop; later jobs run in its next iteration."""
        taken = [self._inline.popleft() for _ in range(min(self.max_batch, len(self._inline)))]
        if self._inline:
            self._loop.call_soon(self._run_inline)
        self._deliver(taken, *self._answers(taken))
        self._mirror_batch(taken)

    def _mirror_batch(self, taken: Sequence[Ticket]) -> None:
        if (mirror := self.mirror) is not None:
            mirror([ticket.job for ticket in taken])

    def _answers(self, taken: Sequence[Ticket]) -> tuple[list[Any], Timings | None]:
        """A result for each job; cancelled and overdue jobs are not computed."""
        now = time.perf_counter()
        for ticket in taken:
            ticket.taken = now
        # Read once: the event loop may cancel a ticket at any time, and results must stay with their tickets.
        begun = [not ticket.cancelled and ticket.deadline >= now for ticket in taken]
        wanted = [ticket.job for ticket, is_begun in zip(taken, begun, strict=True) if is_begun]
        if not wanted:
            return [_deadline_error()] * len(taken), None
        answers, timings = answer_all(self.package, wanted)
        if len(wanted) < len(taken):
            rest = iter(answers)
            answers = [next(rest) if is_begun else _deadline_error() for is_begun in begun]
        return answers, timings

    def _deliver(self, taken: Sequence[Ticket], answers: Sequence[Any], timings: Timings | None) -> None:
        self._open -= len(taken)
        for ticket, answer in zip(taken, answers, strict=True):
            done, ticket.done = ticket.done, _ignore  # breaks a reference cycle
            if ticket.cancelled:
                continue
            ticket.timings = timings
            try:
                done(answer)
            except Exception:  # noqa: BLE001  # the other jobs of the batch must get their results
                _log.exception("delivering a result failed")
        if timings is not None and self._observe is not None:
            self._observe(timings)


def answer_all(package: Package, jobs: Sequence[Job]) -> tuple[list[Any], Timings]:
    """Each job's result or exception; a job that cannot be decoded does not affect the others."""
    began = time.perf_counter()
    decoded: list[Any] = [_attempt(job.decode, package) for job in jobs]
    ready = time.perf_counter()
    arrays: list[np.ndarray] = []
    for own in decoded:
        if not isinstance(own, Exception):
            arrays += own
    outputs = _run_all(package, arrays)
    ran = time.perf_counter()
    answers, end = [], 0
    for job, own in zip(jobs, decoded, strict=True):
        if isinstance(own, Exception):
            answers.append(own)
            continue
        start, end = end, end + len(own)
        parts = outputs[start:end]
        failed = [part for part in parts if isinstance(part, Exception)]
        answers.append(failed[0] if failed else _attempt(job.answer, package, parts))
    return answers, Timings(len(jobs), began, ready - began, ran - ready, time.perf_counter() - ran)


def _run_all(package: Package, arrays: Sequence[np.ndarray]) -> list[Any]:
    """The outputs or the exception for each array; arrays of equal dtype and shape run as one batch."""
    if len(arrays) == 1:
        return [_attempt(package.run, arrays[0])]
    groups: dict[tuple[Any, ...], list[int]] = {}  # samples may differ in shape
    for i, array in enumerate(arrays):
        groups.setdefault((array.dtype, array.shape[1:]), []).append(i)
    found: list[Any] = [None] * len(arrays)
    for members in groups.values():
        outputs = _attempt(package.run, np.concatenate([arrays[i] for i in members]))
        start = 0
        for i in members:
            rows = slice(start, start := start + len(arrays[i]))
            if isinstance(outputs, Exception):
                found[i] = outputs
            else:
                found[i] = {name: value[rows] for name, value in outputs.items()}
    return found


def _ignore(_: Any) -> None:
    """Callback of a delivered ticket."""


def queue_full(backlog: int) -> UnavailableError:
    """The error for a job submitted to a full queue."""
    return UnavailableError(f"{backlog} requests are waiting already.", fix="Send fewer at a time.")


def _deadline_error() -> DeadlineError:
    return DeadlineError("the answer would have come too late, so it was not computed.")


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's result or exception."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001  # passed to the client; the thread must survive
        return error


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # the client disconnected
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
