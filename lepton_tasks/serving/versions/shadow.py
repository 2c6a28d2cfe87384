"""Shadow deployment: champion and challenger process copies of answered requests off the request path."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_tasks.serving.inference.batching import Job, Outputs
from lepton_tasks.serving.package import Package

_WAITING = 64  # requests; those that come while so many wait are dropped
_LEAST_PRIORITY = 19  # of a thread on Linux: it computes when nobody else wants the core
_PROBABILITIES = "probabilities"
_TOLERANCE = 0.01  # two numbers are the same answer if they differ by less, as parts of the larger one beyond 1

_log = logging.getLogger("lepton.serving.shadow")


@dataclasses.dataclass(frozen=True)
class ShadowFigures:
    """How the answers of two versions to the same requests compare.

    Attributes:
        rows: Answers compared.
        agreed: Those with the same label; of numbers, the same but for a hundredth.
        differences: Sum over rows of the mean absolute difference of their probabilities, or numbers.
        errors: Requests that the champion could answer and the challenger could not.
        dropped: Copies that found too many waiting.
        seconds: Processor time of the champion, and of the challenger, for the requests that both answered.
    """

    rows: int = 0
    agreed: int = 0
    differences: float = 0.0
    errors: int = 0
    dropped: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)

    def plus(self, other: ShadowFigures) -> ShadowFigures:
        """The figures of both together."""
        first, second = self.seconds, other.seconds
        return ShadowFigures(
            self.rows + other.rows,
            self.agreed + other.agreed,
            self.differences + other.differences,
            self.errors + other.errors,
            self.dropped + other.dropped,
            (first[0] + second[0], first[1] + second[1]),
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ShadowFigures:
        """The figures that `dataclasses.asdict` gave."""
        return cls(**{**value, "seconds": tuple(value["seconds"])})

    def to_dict(self) -> dict[str, Any]:
        """The figures as people read them."""
        rows, (first, second) = self.rows, self.seconds
        return {
            "rows": rows,
            "agreement": round(self.agreed / rows, 6) if rows else None,
            "mean_absolute_difference": round(self.differences / rows, 6) if rows else None,
            "errors": self.errors,
            "dropped": self.dropped,
            "champion_ms": round(first / rows * 1e3, 4) if rows else None,
            "challenger_ms": round(second / rows * 1e3, 4) if rows else None,
            "time_ratio": round(second / first, 3) if first else None,
        }

    def in_words(self) -> str:
        """One sentence for people."""
        if not self.rows:
            return f"nothing compared yet, {self.errors} failed"
        told = self.to_dict()
        return (
            f"{told['agreement']:.1%} of {self.rows} answers agree, mean difference "
            f"{told['mean_absolute_difference']:.3g}, {told['time_ratio']:.2f} times as long, {self.errors} failed, "
            f"{self.dropped} left out"
        )


class Shadow:
    """Compares two versions on a share of the champion's requests, in a thread of the least priority.

    The champion computes them once more, so that both are timed alike, one request at a time.

    Args:
        champion: What answers.
        challenger: What is compared with it.
        share: Share of the requests, above 0 and at most 1.
    """

    def __init__(self, champion: Package, challenger: Package, share: float) -> None:
        self._packages, self._share = (champion, challenger), share
        self._queue: queue.Queue[Job | None] = queue.Queue(_WAITING)
        self._figures, self._dropped = ShadowFigures(), 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, jobs: Sequence[Job]) -> None:
        """Take copies of answered jobs; returns at once, from any thread."""
        for job in jobs:
            if self._share < 1 and random.random() >= self._share:
                continue
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                self._dropped += 1

    def figures(self) -> ShadowFigures:
        """The figures so far."""
        return dataclasses.replace(self._figures, dropped=self._dropped)

    def close(self) -> None:
        """Compare no more; what waits is forgotten."""
        self._closed = True
        with contextlib.suppress(queue.Full):  # then it looks at `_closed` anyway
            self._queue.put_nowait(None)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # where threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)
        turn = 0
        while (job := self._queue.get()) is not None and not self._closed:
            turn = 1 - turn  # the second finds caches warm: each is it every other time
            try:
                self._figures = self._figures.plus(self._compare(job, turn))
            except Exception:  # noqa: BLE001  # whatever it is, the next request is compared all the same
                _log.exception("a request could not be compared")

    def _compare(self, job: Job, first: int) -> ShadowFigures:
        done: dict[int, tuple[list[Outputs], float]] = {}
        failed: set[int] = set()
        for which in (first, 1 - first):
            try:
                done[which] = _computed(job, self._packages[which])
            except Exception:  # noqa: BLE001  # a request that cannot be read, or a challenger that cannot read it
                failed.add(which)
        if failed:
            return ShadowFigures(errors=1 if failed == {1} else 0)
        rows = agreed = 0
        differences = 0.0
        for mine, theirs in zip(done[0][0], done[1][0], strict=True):
            count, same, apart = compared(mine, theirs)
            rows, agreed, differences = rows + count, agreed + same, differences + apart
        return ShadowFigures(rows, agreed, differences, seconds=(done[0][1], done[1][1]))


def _computed(job: Job, package: Package) -> tuple[list[Outputs], float]:
    """Outputs and seconds of a request, on a copy: what the request log keeps of the answered one stays as it is.

    The seconds are those of the processor: a thread of the least priority waits for others most of the time.
    """
    twin: Any = copy.copy(job)
    twin.sample_records = []
    began = time.thread_time()
    outputs: list[Outputs] = [package.run(samples) for samples in twin.decode(package)]
    return outputs, time.thread_time() - began


def compared(first: Outputs, second: Outputs) -> tuple[int, int, float]:
    """Rows, rows that agree, and the sum over rows of the mean absolute difference of what is float.

    Args:
        first: Outputs by name, arrays [N, ...].
        second: Those of another version for the same N samples.
    """
    count = len(next(iter(first.values())))
    same, apart, floats = np.ones(count, bool), np.zeros(count), 0
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        if a.shape != b.shape:
            same[:] = False
            continue
        a, b = a.reshape(count, -1), b.reshape(count, -1)
        if a.dtype.kind != "f":
            same &= (a == b).all(axis=1)
            continue
        gap = np.abs(a.astype(np.float64) - b)
        apart += gap.mean(axis=1) if gap.size else 0.0
        floats += 1
        if name == _PROBABILITIES:
            same &= a.argmax(axis=1) == b.argmax(axis=1)
        elif _PROBABILITIES not in first:
            same &= (gap <= _TOLERANCE * np.maximum(1.0, np.abs(a))).all(axis=1)
    return count, int(same.sum()), float(apart.sum()) / max(1, floats)
