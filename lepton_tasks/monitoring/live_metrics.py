"""Metrics of answers whose truth is known by feedback, with their intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from lepton_tasks.core.metrics import direction
from lepton_tasks.core.proportions import Z95, newcombe, wilson

_DRAWS = 400


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric of live answers.

    Attributes:
        metric: Its name.
        value: Of the answers.
        low: Lower end of its 95 % interval.
        high: Upper end.
        rows: Answers.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int

    @property
    def best(self) -> float:
        """The better end of the interval."""
        return self.high if direction(self.metric) > 0 else self.low

    def least_loss(self, test: float, test_rows: int | None) -> float:
        """By how much it is worse than on the test split, at least, with 95 % certainty; negative if it need not be.

        A difference of shares by Newcombe's interval; of others, the error on the test split is taken from that of the
        live answers, as it falls with the root of the rows.

        Args:
            test: The metric on the test split.
            test_rows: Rows of the test split; None takes `test` for exact.
        """
        sign = direction(self.metric)
        if test_rows is None:
            return sign * (test - self.best)
        if self.metric == "accuracy":
            counts = [(round(share * rows), rows) for share, rows in ((test, test_rows), (self.value, self.rows))]
            return -newcombe(counts[0], counts[1])[1]
        error = (self.high - self.low) / (2 * Z95)
        spread = error * math.sqrt(1 + self.rows / max(1, test_rows))
        return sign * (test - self.value) - Z95 * spread


def estimate(metric: str, said: Sequence[str] | np.ndarray, true: Sequence[str] | np.ndarray) -> Estimate:
    """The metric and its interval: Wilson's for accuracy, the percentiles of a bootstrap for others.

    Args:
        metric: One of `OF_LABELS` or `OF_NUMBERS`.
        said: Answers, [N]: texts, or numbers.
        true: What was right, likewise.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    if metric in OF_LABELS:
        _, codes = np.unique([*map(str, said), *map(str, true)], return_inverse=True)
        answers, truths = codes[: len(said)].astype(np.float64), codes[len(said) :].astype(np.float64)
    else:
        answers, truths = np.asarray(said, np.float64), np.asarray(true, np.float64)
    compute, rows = {**OF_LABELS, **OF_NUMBERS}[metric], len(truths)
    value = compute(answers, truths)
    if metric == "accuracy":
        return Estimate(metric, value, *wilson(value, rows), rows)
    draw = np.random.default_rng(0)
    drawn = [
        compute(answers[chosen], truths[chosen]) for chosen in (draw.integers(0, rows, rows) for _ in range(_DRAWS))
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(metric, value, float(low), float(high), rows)


def weakest_label(said: Sequence[str], true: Sequence[str], *, least: int = 5) -> tuple[str, int, int] | None:
    """The label that is recognised least often, how often it is and how often it occurs; of those that occur enough."""
    counts: dict[str, list[int]] = {}
    for answer, truth in zip(map(str, said), map(str, true), strict=True):
        rows = counts.setdefault(truth, [0, 0])
        rows[0] += answer == truth
        rows[1] += 1
    enough = [(right / rows, label, right, rows) for label, (right, rows) in counts.items() if rows >= least]
    return min(enough)[1:] if enough else None


def _accuracy(said: np.ndarray, true: np.ndarray) -> float:
    return float((said == true).mean())


def _macro_f1(said: np.ndarray, true: np.ndarray) -> float:
    """Over the labels that were answered or right."""
    size = int(max(said.max(), true.max())) + 1
    hits = np.bincount(true[said == true].astype(np.int64), minlength=size)
    rows = np.bincount(np.concatenate([said, true]).astype(np.int64), minlength=size)
    return float((2 * hits[rows > 0] / rows[rows > 0]).mean())


def _rmse(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(((said - true) ** 2).mean()))


def _mae(said: np.ndarray, true: np.ndarray) -> float:
    return float(np.abs(said - true).mean())


def _r2(said: np.ndarray, true: np.ndarray) -> float:
    spread = float(true.var())
    return 1 - float(((said - true) ** 2).mean()) / spread if spread else 0.0


_Metric = Callable[[np.ndarray, np.ndarray], float]
OF_LABELS: dict[str, _Metric] = {"accuracy": _accuracy, "macro_f1": _macro_f1}
OF_NUMBERS: dict[str, _Metric] = {"rmse": _rmse, "mae": _mae, "r2": _r2}
"""Metrics that feedback tells; those that need all probabilities, such as ``auc``, are not among them."""
