"""Natural micro-batching: an idle worker takes all queued requests, so a single request never waits."""

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

_LONGEST_WAIT_SECONDS = 0.25  # what more would wait for is refused at once; processes beside it make it more
_PART = 8  # of the queue: a batch of so few makes nobody's wait much longer
_LEAST_BACKLOG, _MOST_BACKLOG = 64, 4096  # jobs

Outputs = Mapping[str, np.ndarray]

_log = logging.getLogger("lepton.serving.batching")


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
        timings: Of the batch it was in, once that is answered.
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
    """How long the stages of a batch took, in seconds; `began` is a `time.perf_counter`."""

    jobs: int
    began: float
    decode: float
    run: float
    encode: float


class Batcher:
    """Decodes, infers and encodes for one loaded package. Made inside the event loop.

    Jobs go to worker threads, but small ones may be done in the event loop itself, where all that came in one round are
    one batch: to hand a job and the interpreter's lock to another thread and back takes about as long as to answer a
    whole request of a tiny model.

    Args:
        package: What answers.
        max_batch: Most jobs of one inference.
        deep: The same while many wait: up to an eighth of them. Where inferences gain nothing from batches, the rest
            of the work does: who waits for a thread, and for whom, is woken once for all of them.
        workers: Threads.
        small: Bytes of a request up to which it may be done in the event loop.
        busy: Whether it is done there even while others are being answered.
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
        deep: int = 0,
        small: int = 0,
        busy: bool = False,
        rate: float = math.inf,
        backlog: int | None = None,
        observe: Callable[[Timings], None] | None = None,
    ) -> None:
        self.package, self.max_batch = package, max_batch
        fitting = int(min(_MOST_BACKLOG, max(_LEAST_BACKLOG, rate * workers * _LONGEST_WAIT_SECONDS)))
        self.backlog = fitting if backlog is None else backlog
        self.mirror: Callable[[Sequence[Job]], None] | None = None
        """Told of the jobs of every batch once they are answered, in whichever thread; must return at once."""
        self._deep = deep
        self._observe, self._small, self._most_open = observe, small, math.inf if busy else 0
        self._open = 0  # jobs taken and not yet answered
        self._here: collections.deque[Ticket] = collections.deque()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"infer-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def depth(self) -> int:
        """How many jobs wait."""
        return self._queue.qsize() + len(self._here)

    @property
    def full(self) -> bool:
        """Whether a further job would be refused."""
        return self._queue.qsize() + len(self._here) >= self.backlog  # as `depth`: it is asked most while time is short

    def submit(
        self, job: Job, done: Callable[[Any], None], *, seconds: float = math.inf, size: float = math.inf
    ) -> Ticket:
        """Queue a job; `done` is called in the event loop with its answer or its error.

        Args:
            job: The job.
            done: What is told.
            seconds: After them the job is not begun any more, and gets a `DeadlineError`.
            size: Bytes of the request.
        """
        if self.full:
            raise crowded(self.backlog)
        now = time.perf_counter()
        ticket = Ticket(job, done, now + seconds, now)
        if size <= self._small and self._open <= self._most_open:
            self._here.append(ticket)
            if len(self._here) == 1:
                self._loop.call_soon(self._work_here)
        else:
            self._queue.put(ticket)
        self._open += 1
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
            taken, more = self._take()
            if taken:
                self._loop.call_soon_threadsafe(self._settle, taken, *self._answers(taken))
                self._reflect(taken)

    def _take(self) -> tuple[list[Ticket], bool]:
        """All that is queued up to the batch size, waiting for the first; False after the end mark."""
        batch: list[Ticket] = []
        ticket = self._queue.get()
        most = max(self.max_batch, min(self._deep, self._queue.qsize() // _PART))
        while ticket is not None:
            batch.append(ticket)
            if len(batch) >= most:
                return batch, True
            try:
                ticket = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _work_here(self) -> None:
        """One batch, in the event loop; what came meanwhile waits for the next round."""
        taken = [self._here.popleft() for _ in range(min(self.max_batch, len(self._here)))]
        if self._here:
            self._loop.call_soon(self._work_here)
        self._settle(taken, *self._answers(taken))
        self._reflect(taken)

    def _reflect(self, taken: Sequence[Ticket]) -> None:
        if (mirror := self.mirror) is not None:
            mirror([ticket.job for ticket in taken])

    def _answers(self, taken: Sequence[Ticket]) -> tuple[list[Any], Timings | None]:
        """An answer to each; nothing is computed for those that nobody waits for, or that are too late."""
        now = time.perf_counter()
        for ticket in taken:
            ticket.taken = now
        # Looked at once: the event loop may cancel one at any moment, and each answer must stay with its own ticket.
        begun = [not ticket.cancelled and ticket.deadline >= now for ticket in taken]
        wanted = [ticket.job for ticket, is_begun in zip(taken, begun, strict=True) if is_begun]
        if not wanted:
            return [_late()] * len(taken), None
        answers, timings = answer_all(self.package, wanted)
        if len(wanted) < len(taken):
            rest = iter(answers)
            answers = [next(rest) if is_begun else _late() for is_begun in begun]
        return answers, timings

    def _settle(self, taken: Sequence[Ticket], answers: Sequence[Any], timings: Timings | None) -> None:
        self._open -= len(taken)
        for ticket, answer in zip(taken, answers, strict=True):
            done, ticket.done = ticket.done, _nothing  # or each would be a cycle for the garbage collector
            if ticket.cancelled:
                continue
            ticket.timings = timings
            try:
                done(answer)
            except Exception:  # noqa: BLE001  # whatever it is, the others of the batch get their answers
                _log.exception("an answer could not be given")
        if timings is not None and self._observe is not None:
            self._observe(timings)


def answer_all(package: Package, jobs: Sequence[Job]) -> tuple[list[Any], Timings]:
    """Each job's answer, or the exception it met; a job that cannot be decoded does not touch the others."""
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
    """The outputs for each array, or the exception that met it; those of one kind go as one batch."""
    if len(arrays) == 1:
        return [_attempt(package.run, arrays[0])]
    groups: dict[tuple[Any, ...], list[int]] = {}  # samples of free size can only join their like
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


def _nothing(_: Any) -> None:
    """What is told of an answer once it is given."""


def crowded(backlog: int) -> UnavailableError:
    """What a job is refused with while the queue is full."""
    return UnavailableError(f"{backlog} requests are waiting already.", fix="Send fewer at a time.")


def _late() -> DeadlineError:
    return DeadlineError("the answer would have come too late, so it was not computed.")


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
