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

_MAX_QUEUED = 64  # requests; further ones are dropped
_NICE = 19  # lowest thread priority on Linux: runs on idle cores only
_PROBABILITIES = "probabilities"
_TOLERANCE = 0.01  # of two numbers that agree; relative for numbers above 1

_log = logging.getLogger("lepton.serving.shadow")


@dataclasses.dataclass(frozen=True)
class ShadowFigures:
    """Comparison of the predictions of two versions for the same requests.

    Attributes:
        rows: Predictions compared.
        agreed: Those with the same label, or numbers that differ by at most 1 %.
        differences: Sum over rows of the mean absolute difference of probabilities or numbers.
        errors: Requests on which only the challenger failed.
        dropped: Requests dropped because the queue was full.
        seconds: CPU time of champion and challenger for the compared requests.
    """

    rows: int = 0
    agreed: int = 0
    differences: float = 0.0
    errors: int = 0
    dropped: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)

    def plus(self, other: ShadowFigures) -> ShadowFigures:
        """The sum of both."""
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
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**value, "seconds": tuple(value["seconds"])})

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values."""
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

    def summary(self) -> str:
        """Summary in one sentence."""
        if not self.rows:
            return f"nothing compared yet, {self.errors} failed"
        figures = self.to_dict()
        return (
            f"{figures['agreement']:.1%} of {self.rows} answers agree, mean difference "
            f"{figures['mean_absolute_difference']:.3g}, {figures['time_ratio']:.2f} times as long, "
            f"{self.errors} failed, {self.dropped} left out"
        )


class Shadow:
    """Compares two versions on a share of the champion's requests, in a thread of the lowest priority.

    The champion runs again, so that both are timed under the same conditions, one request at a time.

    Args:
        champion: The serving version.
        challenger: The version to compare.
        share: Share of the requests, above 0 and at most 1.
    """

    def __init__(self, champion: Package, challenger: Package, share: float) -> None:
        self._packages, self._share = (champion, challenger), share
        self._queue: queue.Queue[Job | None] = queue.Queue(_MAX_QUEUED)
        self._figures, self._dropped = ShadowFigures(), 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, jobs: Sequence[Job]) -> None:
        """Queue copies of finished jobs; does not block, and may be called from any thread."""
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
        """Stop comparing; queued requests are discarded."""
        self._closed = True
        with contextlib.suppress(queue.Full):  # the thread then checks `_closed`
            self._queue.put_nowait(None)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # on platforms without thread priorities
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        turn = 0
        while (job := self._queue.get()) is not None and not self._closed:
            turn = 1 - turn  # alternate the order: the second runs with warm caches
            try:
                self._figures = self._figures.plus(self._compare(job, turn))
            except Exception:  # noqa: BLE001  # the thread must survive
                _log.exception("a request could not be compared")

    def _compare(self, job: Job, first: int) -> ShadowFigures:
        done: dict[int, tuple[list[Outputs], float]] = {}
        failed: set[int] = set()
        for which in (first, 1 - first):
            try:
                done[which] = _run_copy(job, self._packages[which])
            except Exception:  # noqa: BLE001  # counted below, if only the challenger failed
                failed.add(which)
        if failed:
            return ShadowFigures(errors=1 if failed == {1} else 0)
        rows = agreed = 0
        differences = 0.0
        for mine, theirs in zip(done[0][0], done[1][0], strict=True):
            count, same, apart = compare_outputs(mine, theirs)
            rows, agreed, differences = rows + count, agreed + same, differences + apart
        return ShadowFigures(rows, agreed, differences, seconds=(done[0][1], done[1][1]))


def _run_copy(job: Job, package: Package) -> tuple[list[Outputs], float]:
    """Outputs and CPU seconds of a copy of the job, so that its records for the request log are not changed.

    CPU time, because a thread of the lowest priority waits most of the time.
    """
    duplicate: Any = copy.copy(job)
    duplicate.sample_records = []
    began = time.thread_time()
    outputs: list[Outputs] = [package.run(samples) for samples in duplicate.decode(package)]
    return outputs, time.thread_time() - began


def compare_outputs(first: Outputs, second: Outputs) -> tuple[int, int, float]:
    """Rows, rows that agree, and the sum over rows of the mean absolute difference of the float outputs.

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
