"""Recent statistics of a version: requests, errors, latency, answers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_tasks.serving.errors import CLIENT_GONE

_FASTEST, _GROWTH = 1e-5, 1.05  # seconds of the first bucket, and how much wider each is than the one before
_BUCKETS = 340  # up to 150 s
_LOG_GROWTH = math.log(_GROWTH)
_PROBABILITIES = "probabilities"
_KEPT = 2000  # scores, a random sample of all


@dataclasses.dataclass(frozen=True)
class Figures:
    """A version's figures since its tally was begun.

    Attributes:
        requests: Requests answered or refused, without made-up ones.
        errors: Those that got no prediction.
        times: Requests by bucket of the time to answer.
        labels: Rows by index of the most probable label; empty for models without probabilities.
        scores: Of up to 2,000 rows, the largest probability, or the mean of the first float output.
    """

    requests: int = 0
    errors: int = 0
    times: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    def plus(self, other: Figures) -> Figures:
        """The figures of both together."""
        times, labels = (
            tuple(a + b for a, b in itertools.zip_longest(mine, theirs, fillvalue=0))
            for mine, theirs in ((self.times, other.times), (self.labels, other.labels))
        )
        scores = self.scores + other.scores
        return Figures(self.requests + other.requests, self.errors + other.errors, times, labels, scores)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Figures:
        """The figures that `dataclasses.asdict` gave."""
        times, labels, scores = (tuple(value[name]) for name in ("times", "labels", "scores"))
        return cls(value["requests"], value["errors"], times, labels, scores)

    def quantile(self, share: float) -> float | None:
        """The time that this share of the requests took at most, in seconds, 5 % exact; None without requests."""
        wanted = share * sum(self.times)
        seen = 0
        for i, count in enumerate(self.times):
            seen += count
            if count and seen >= wanted:
                return _FASTEST * _GROWTH ** (i + 1)
        return None

    def slower(self, seconds: float) -> int:
        """How many requests took longer."""
        return sum(self.times[_bucket(seconds) + 1 :])

    def to_dict(self) -> dict[str, Any]:
        """The figures as people read them."""
        p50, p95 = self.quantile(0.5), self.quantile(0.95)
        return {
            "requests": self.requests,
            "errors": self.errors,
            "p50_ms": None if p50 is None else round(p50 * 1e3, 3),
            "p95_ms": None if p95 is None else round(p95 * 1e3, 3),
            "rows": sum(self.labels) or len(self.scores),
            "mean_score": round(sum(self.scores) / len(self.scores), 6) if self.scores else None,
        }


class Tally:
    """Counts for one version; requests are counted in the event loop, outputs in worker threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        with self._lock:
            self._requests = self._errors = self._rows = 0
            self._times = [0] * _BUCKETS
            self._labels = np.zeros(0, np.int64)
            self._scores: list[float] = []
            self._random = random.Random(0)

    def request(self, status: int, seconds: float) -> None:
        """Count a request by its HTTP status and the time to answer; one whose client went away says nothing."""
        if status == CLIENT_GONE:
            return
        self._requests += 1
        if status >= 400:
            self._errors += 1
        else:
            self._times[_bucket(seconds)] += 1

    def outputs(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Count the rows of a batch by what was answered."""
        labels, scores = _told(outputs)
        with self._lock:
            if labels is not None:
                counts = np.bincount(labels, minlength=len(self._labels))
                counts[: len(self._labels)] += self._labels
                self._labels = counts
            for score in scores:
                self._rows += 1
                if len(self._scores) < _KEPT:
                    self._scores.append(score)
                elif (i := self._random.randrange(self._rows)) < _KEPT:  # each row is as likely to be kept as any
                    self._scores[i] = score

    def figures(self) -> Figures:
        """The figures so far."""
        with self._lock:
            labels, scores = tuple(self._labels.tolist()), tuple(self._scores)
        return Figures(self._requests, self._errors, tuple(self._times), labels, scores)


def _bucket(seconds: float) -> int:
    if seconds <= _FASTEST:
        return 0
    return min(_BUCKETS - 1, int(math.log(seconds / _FASTEST) / _LOG_GROWTH))


def _told(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, list[float]]:
    """The label of each row, if there are probabilities, and its score."""
    probabilities = outputs.get(_PROBABILITIES)
    if probabilities is not None and probabilities.ndim == 2 and probabilities.shape[1] > 0:
        return probabilities.argmax(axis=1), probabilities.max(axis=1).tolist()
    numbers = next((value for value in outputs.values() if value.dtype.kind == "f" and value.size), None)
    if numbers is None:
        return None, []
    means: list[float] = numbers.reshape(len(numbers), -1).mean(axis=1, dtype=np.float64).tolist()
    return None, means
