"""Compare a model's versions using the request log."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from lepton_tasks.core.proportions import (
    Z95,
    chi_square_p_value,
    newcombe,
    population_stability_index,
    two_proportion_p_value,
    wilson,
)
from lepton_tasks.serving.errors import CLIENT_GONE

_MAX_TIMES = 100_000  # per version, the latest
_MAX_LABELS = 1000  # further ones are counted as `_OTHER`
_OTHER = "(others)"
_SIGNIFICANCE = 0.05


class _Version:
    """Counts of one version."""

    def __init__(self) -> None:
        self.answers = self.failed = 0
        self.times: collections.deque[float] = collections.deque(maxlen=_MAX_TIMES)
        self.labels: collections.Counter[str] = collections.Counter()
        self.probabilities: list[float] = [0.0, 0.0, 0.0]  # count, sum, sum of squares
        self.judged = self.right = 0
        self.error_sums: list[float] = [0.0, 0.0, 0.0]  # absolute errors: count, sum, sum of squares

    def add(self, record: Mapping[str, Any], truth: object) -> None:
        self.answers += 1
        if record["status"] != 200:
            self.failed += 1
            return
        self.times.append(record["seconds"])
        label = record.get("label")
        if label is not None:
            name = str(label)
            self.labels[name if name in self.labels or len(self.labels) < _MAX_LABELS else _OTHER] += 1
            if truth is not None:
                self.judged += 1
                self.right += str(truth) == name
        number = record.get("value")
        if truth is not None and isinstance(number, float) and isinstance(truth := _number(truth), float):
            for power in range(3):
                self.error_sums[power] += abs(number - truth) ** power
        if (value := record.get("probability")) is not None:
            self.probabilities[0] += 1
            self.probabilities[1] += value
            self.probabilities[2] += value * value

    def to_dict(self) -> dict[str, Any]:
        cuts = statistics.quantiles(self.times, n=20, method="inclusive") if len(self.times) > 1 else []
        count, total, squares = self.probabilities
        named = sum(self.labels.values())
        row: dict[str, Any] = {
            "answers": self.answers,
            "failed": self.failed,
            "failed_interval": wilson(self.failed / self.answers, self.answers),
            "p50_ms": round(cuts[9] * 1e3, 3) if cuts else None,
            "p95_ms": round(cuts[18] * 1e3, 3) if cuts else None,
            "labels": {label: n / named for label, n in self.labels.most_common(20)},
            "mean_probability": total / count if count else None,
        }
        if count > 1:
            spread = max(0.0, squares - total * total / count) / (count - 1)
            row["mean_probability_error"] = (spread / count) ** 0.5
        if self.judged:
            row |= {"judged": self.judged, "accuracy": self.right / self.judged}
            row["accuracy_interval"] = wilson(self.right / self.judged, self.judged)
        if count := self.error_sums[0]:
            row |= {"judged": int(count), "mean_error": self.error_sums[1] / count}
        return row


def compare(
    records: Iterable[Mapping[str, Any]],
    *,
    base: str | None = None,
    truths: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, Any]:
    """Figures of each version that served real requests, and their differences from a base version.

    The tests assume independent requests. With keys, all requests of a user go to one version, so a few busy users
    weigh more than the tests assume.

    Args:
        records: Of the request log.
        base: The version to compare with; by default, the one with the most requests.
        truths: True label or number by the ``id`` of the prediction, or by the ``trace`` of a request with one sample;
            used for the accuracy or the mean error.

    Returns:
        ``versions``: by number, answers, failed ones with the 95 % interval of their share, percentiles of the time,
        shares of the labels, the mean probability with its standard error and, with truths, the accuracy.
        ``base`` and ``against``: for each other version, the difference of the shares of failed answers with its
        interval and the p-value of their test, the ratio of the 95th percentiles, the stability index of the labels and
        the p-value of chi-square, the difference of the accuracies likewise, and a verdict in words.

    Source: `lepton_tasks.core.proportions` names those of each formula.
    """
    seen: dict[str, _Version] = {}
    for record in records:
        if not record.get("probe") and record["status"] != CLIENT_GONE:
            version = seen.setdefault(record["version"], _Version())
            known = (record[key] for key in ("id", "trace") if record.get(key) in truths)
            version.add(record, next((truths[key] for key in known), None))
    if base not in seen:
        base = max(seen, key=lambda name: seen[name].answers, default=None)
    against = {}
    if base is not None:
        against = {v: _compare_pair(seen[base], version) for v, version in seen.items() if v != base}
    return {"versions": {v: version.to_dict() for v, version in seen.items()}, "base": base, "against": against}


def _compare_pair(first: _Version, second: _Version) -> dict[str, Any]:
    failed = (first.failed, first.answers), (second.failed, second.answers)
    names = sorted(first.labels | second.labels)
    counts = [[version.labels[name] for name in names] for version in (first, second)]
    compared = len(names) > 1 and all(sum(row) for row in counts)
    before, after = first.to_dict()["p95_ms"], second.to_dict()["p95_ms"]
    row: dict[str, Any] = {
        "failed_difference": second.failed / second.answers - first.failed / first.answers,
        "failed_interval": newcombe(*failed, z=Z95),
        "failed_p": two_proportion_p_value(*failed),
        "p95_ratio": round(after / before, 3) if before and after else None,
        "labels_psi": population_stability_index(*counts) if compared else None,
        "labels_p": chi_square_p_value(*counts) if compared else None,
    }
    if first.judged and second.judged:
        right = (first.right, first.judged), (second.right, second.judged)
        row["accuracy_difference"] = second.right / second.judged - first.right / first.judged
        row |= {"accuracy_interval": newcombe(*right, z=Z95), "accuracy_p": two_proportion_p_value(*right)}
    if min(first.error_sums[0], second.error_sums[0]) > 1:
        row |= _compare_errors(first.error_sums, second.error_sums)
    return {**row, "verdict": _verdict(row)}


def _compare_errors(first: list[float], second: list[float]) -> dict[str, Any]:
    """The difference of two mean absolute errors, its 95 % interval and p-value: Welch's test, by the normal tail.

    Source: Welch, "The generalization of 'Student's' problem when several different population variances are involved",
    1947.
    """
    difference, variance = 0.0, 0.0
    for sign, (count, total, squares) in ((-1, first), (1, second)):
        difference += sign * total / count
        variance += max(0.0, squares - total * total / count) / (count - 1) / count
    spread = math.sqrt(variance)
    p_value = math.erfc(abs(difference) / spread / math.sqrt(2)) if spread else float(difference == 0)
    interval = difference - Z95 * spread, difference + Z95 * spread
    return {"error_difference": difference, "error_interval": interval, "error_p": p_value}


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _verdict(row: Mapping[str, Any]) -> str:
    findings = []
    if row["failed_p"] < _SIGNIFICANCE:
        findings.append(f"it fails {'more' if row['failed_difference'] > 0 else 'less'} often")
    if row.get("accuracy_p", 1.0) < _SIGNIFICANCE:
        findings.append(f"it is right {'more' if row['accuracy_difference'] > 0 else 'less'} often")
    if row.get("error_p", 1.0) < _SIGNIFICANCE:
        findings.append(f"its errors are {'larger' if row['error_difference'] > 0 else 'smaller'}")
    if row["labels_p"] is not None and row["labels_p"] < _SIGNIFICANCE:
        findings.append(f"it answers with other labels (stability index {row['labels_psi']:.2f})")
    return "; ".join(findings) or "no difference beyond chance"
