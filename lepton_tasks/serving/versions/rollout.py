"""Decide whether a canary advances, waits or is rolled back."""

from __future__ import annotations

import bisect
import collections
import dataclasses
import math
from collections.abc import Sequence, Set
from typing import Any, Literal

from lepton_tasks.core.proportions import (
    fisher_p_value,
    merge_sparse_bins,
    population_stability_index,
    stability_index_bound,
    wilson,
)
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.versions.tally import Figures

# Significance limits in standard deviations. A step is judged once at its end but repeatedly while it runs, so the
# early limit is stricter (multiple testing). Simulated false alarm rates: docs/decisions/069-canaries.md.
Z_END, Z_EARLY = 2.58, 4.0
_TAIL = 0.05  # share of requests above the 95th percentile
_MIN_ROWS = 50  # per version, to compare latency and predictions
_MIN_SLOWDOWN_SECONDS = 0.001  # smaller differences of latency are noise
_SCORE_BINS = 10


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Decision about a canary.

    Attributes:
        action: ``wait``, ``on`` (next step) or ``back`` (roll back).
        reason: Human-readable reason.
        figures: The figures behind it, as JSON values.
    """

    action: Literal["wait", "on", "back"]
    reason: str
    figures: dict[str, Any]


def judge(plan: Rollout, elapsed: float, champion: Figures, challenger: Figures) -> Verdict:
    """Judge a step of a canary.

    It is rolled back if errors, latency or predictions exceed the limits of the plan significantly: by `Z_END` standard
    deviations at the end of a step, by `Z_EARLY` before.

    Args:
        plan: Limits.
        elapsed: Seconds since the step began.
        champion: Figures of the champion in the same time, or of the last step with enough requests.
        challenger: Figures of the canary since the step began.
    """
    complete = elapsed >= plan.step_seconds and challenger.requests >= plan.min_requests
    z = Z_END if complete else Z_EARLY
    drift = {"labels": label_drift(champion, challenger, z), "scores": score_drift(champion, challenger, z)}
    figures = {
        "seconds": round(elapsed, 3),
        "champion": champion.to_dict(),
        "challenger": challenger.to_dict(),
        "psi": {name: None if found is None else round(found[0], 4) for name, found in drift.items()},
    }
    reasons = [_error_reason(plan, champion, challenger, z), _latency_reason(plan, champion, challenger, z)]
    reasons += [
        f"its {name} differ from the champion's: stability index {found[0]:.3f}, allowed {plan.max_drift:g}"
        for name, found in drift.items()
        if found is not None and found[0] > max(plan.max_drift, found[1])
    ]
    if worse := [reason for reason in reasons if reason]:
        return Verdict("back", "; ".join(worse), figures)
    if complete:
        return Verdict("on", f"no problem found after {challenger.requests} requests", figures)
    waits = f"{challenger.requests} of {plan.min_requests} requests, {elapsed:.0f} of {plan.step_seconds:g} s"
    return Verdict("wait", waits, figures)


def _error_reason(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    if not challenger.errors:
        return ""
    rate = challenger.errors / challenger.requests
    base = champion.errors / champion.requests if champion.requests else 0.0
    # Without requests of the champion, compare with one of as many requests and the allowed number of errors.
    seen = champion.errors, champion.requests
    if not champion.requests:
        seen = math.ceil(plan.max_error_increase * challenger.requests), challenger.requests
    chance = fisher_p_value(seen, (challenger.errors, challenger.requests))
    if rate - base <= plan.max_error_increase or chance >= math.erfc(z / math.sqrt(2)) / 2:
        return ""
    return f"{rate:.1%} of its requests failed, {base:.1%} of the champion's"


def _latency_reason(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    """Compare the 95th percentiles.

    The ratio is significant if more than 5 % of the canary's requests exceed the limit derived from the champion's
    percentile, and less than 5 % of the champion's exceed that derived from the canary's: both percentiles have errors.
    """
    limit, own = champion.quantile(1 - _TAIL), challenger.quantile(1 - _TAIL)
    n, m = sum(champion.times), sum(challenger.times)
    if limit is None or own is None or min(n, m) < _MIN_ROWS:
        return ""
    allowed = limit * plan.max_latency_ratio
    if own <= allowed or own - limit < _MIN_SLOWDOWN_SECONDS:
        return ""
    if wilson(challenger.slower(allowed) / m, m, z=z)[0] <= _TAIL:
        return ""
    if wilson(champion.slower(own / plan.max_latency_ratio) / n, n, z=z)[1] >= _TAIL:
        return ""
    return (
        f"it takes {own / limit:.2f} times as long as the champion (95th percentile {own * 1e3:.1f} ms, "
        f"{limit * 1e3:.1f} ms), allowed {plan.max_latency_ratio:g}"
    )


def label_drift(champion: Figures, challenger: Figures, z: float) -> tuple[float, float] | None:
    """Stability index of the labels, and its value expected by chance; None with too few rows."""
    width = max(len(champion.labels), len(challenger.labels))
    return _drift(_padded(champion.labels, width), _padded(challenger.labels, width), z)


def score_drift(champion: Figures, challenger: Figures, z: float) -> tuple[float, float] | None:
    """The same for the scores, binned by the champion's deciles and rounded to `_unit`."""
    ordered = sorted(champion.scores)
    if len(ordered) < _MIN_ROWS:
        return None
    unit = _unit(ordered)
    first, second = ([round(score / unit) for score in version.scores] for version in (champion, challenger))
    counts = collections.Counter(first)
    edges = sorted({round(ordered[len(ordered) * i // _SCORE_BINS] / unit) for i in range(1, _SCORE_BINS)})
    # Frequent scores get their own bin: intervals cannot separate a constant score from slightly lower ones.
    frequent = {edge for edge in edges if counts[edge] * _SCORE_BINS >= len(first)}
    return _drift(_binned(first, edges, frequent), _binned(second, edges, frequent), z)


def _unit(ordered: Sequence[float]) -> float:
    """A hundredth of the spread of sorted scores, or of their magnitude if they hardly differ.

    Without rounding, 1.0 and 0.9999, which a confident classifier returns for half of all images, would be in
    different bins.
    """
    spread = ordered[len(ordered) * 95 // 100] - ordered[len(ordered) * 5 // 100]
    size = abs(ordered[len(ordered) // 2])
    return max(spread if spread > 0.001 * size else size, 1e-9) / 100


def _drift(first: Sequence[int], second: Sequence[int], z: float) -> tuple[float, float] | None:
    n, m = sum(first), sum(second)
    if min(n, m) < _MIN_ROWS:
        return None
    a, b = merge_sparse_bins(first, second)
    if len(a) < 2:
        return 0.0, math.inf
    return population_stability_index(a, b), stability_index_bound(len(a), n, m, z=z)


def _padded(counts: Sequence[int], width: int) -> list[int]:
    return [*counts, *[0] * (width - len(counts))]


def _binned(scores: Sequence[int], edges: Sequence[int], frequent: Set[int]) -> list[int]:
    """Counts of the scores between the edges, and of each frequent score."""
    counts = [0] * (2 * len(edges) + 1)
    for score in scores:
        counts[2 * bisect.bisect_left(edges, score) + (score in frequent)] += 1
    return counts
