"""Recent statistics of a version: requests, errors, latency, predictions."""

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

_MIN_SECONDS, _GROWTH = 1e-5, 1.05  # upper bound of the first latency bucket, and growth factor of the buckets
_BUCKETS = 340  # up to 150 s
_LOG_GROWTH = math.log(_GROWTH)
_PROBABILITIES = "probabilities"
_MAX_SCORES = 2000  # reservoir sample


@dataclasses.dataclass(frozen=True)
class Figures:
    """A version's figures since its tally was reset.

    Attributes:
        requests: Requests without probes.
        errors: Requests that failed.
        times: Successful requests by latency bucket.
        labels: Rows by index of the most probable label; empty for models without probabilities.
        scores: Largest probability, or mean of the first float output, of a sample of up to 2,000 rows.
    """

    requests: int = 0
    errors: int = 0
    times: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()

    def plus(self, other: Figures) -> Figures:
        """The sum of both."""
        times, labels = (
            tuple(a + b for a, b in itertools.zip_longest(mine, theirs, fillvalue=0))
            for mine, theirs in ((self.times, other.times), (self.labels, other.labels))
        )
        scores = self.scores + other.scores
        return Figures(self.requests + other.requests, self.errors + other.errors, times, labels, scores)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Figures:
        """The inverse of `dataclasses.asdict`."""
        times, labels, scores = (tuple(value[name]) for name in ("times", "labels", "scores"))
        return cls(value["requests"], value["errors"], times, labels, scores)

    def quantile(self, share: float) -> float | None:
        """The latency quantile in seconds, with a precision of 5 %; None without requests."""
        wanted = share * sum(self.times)
        seen = 0
        for i, count in enumerate(self.times):
            seen += count
            if count and seen >= wanted:
                return _MIN_SECONDS * _GROWTH ** (i + 1)
        return None

    def slower(self, seconds: float) -> int:
        """Number of requests that took longer."""
        return sum(self.times[_bucket(seconds) + 1 :])

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values."""
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
    """Statistics of one version; requests are counted in the event loop, outputs in worker threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        with self._lock:
            self._requests = self._errors = self._rows = 0
            self._times = [0] * _BUCKETS
            self._labels = np.zeros(0, np.int64)
            self._scores: list[float] = []
            self._random = random.Random(0)

    def request(self, status: int, seconds: float) -> None:
        """Count a request by HTTP status and latency; those whose client disconnected are ignored."""
        if status == CLIENT_GONE:
            return
        self._requests += 1
        if status >= 400:
            self._errors += 1
        else:
            self._times[_bucket(seconds)] += 1

    def outputs(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Count the rows of a batch by label and score."""
        labels, scores = _labels_and_scores(outputs)
        with self._lock:
            if labels is not None:
                counts = np.bincount(labels, minlength=len(self._labels))
                counts[: len(self._labels)] += self._labels
                self._labels = counts
            for score in scores:
                self._rows += 1
                if len(self._scores) < _MAX_SCORES:
                    self._scores.append(score)
                elif (i := self._random.randrange(self._rows)) < _MAX_SCORES:  # reservoir sampling
                    self._scores[i] = score

    def figures(self) -> Figures:
        """The figures so far."""
        with self._lock:
            labels, scores = tuple(self._labels.tolist()), tuple(self._scores)
        return Figures(self._requests, self._errors, tuple(self._times), labels, scores)


def _bucket(seconds: float) -> int:
    if seconds <= _MIN_SECONDS:
        return 0
    return min(_BUCKETS - 1, int(math.log(seconds / _MIN_SECONDS) / _LOG_GROWTH))


def _labels_and_scores(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, list[float]]:
    """The label of each row, if there are probabilities, and its score."""
    probabilities = outputs.get(_PROBABILITIES)
    if probabilities is not None and probabilities.ndim == 2 and probabilities.shape[1] > 0:
        return probabilities.argmax(axis=1), probabilities.max(axis=1).tolist()
    numbers = next((value for value in outputs.values() if value.dtype.kind == "f" and value.size), None)
    if numbers is None:
        return None, []
    means: list[float] = numbers.reshape(len(numbers), -1).mean(axis=1, dtype=np.float64).tolist()
    return None, means
