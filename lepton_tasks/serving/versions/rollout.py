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

# Standard deviations beyond which chance explains nothing. At its end a step is judged once; while it runs, again and
# again, so that chance has many tries. False alarms by simulation: docs/decisions/069-canaries.md.
Z_END, Z_EARLY = 2.58, 4.0
_TAIL = 0.05  # the share of requests beyond the 95th percentile
_LEAST_ROWS = 50  # of both versions, for their times and answers to be compared
_LEAST_SLOWER_SECONDS = 0.001  # a ratio of times below that is noise of the machine
_SCORE_BINS = 10


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a canary, and why.

    Attributes:
        action: ``wait``, ``on`` to the next step, or ``back``.
        reason: For people.
        figures: What it was judged by, as JSON values.
    """

    action: Literal["wait", "on", "back"]
    reason: str
    figures: dict[str, Any]


def judge(plan: Rollout, elapsed: float, champion: Figures, challenger: Figures) -> Verdict:
    """The verdict on a canary's step.

    It goes back when errors, times or answers are worse than allowed and chance does not explain it: at the end of a
    step beyond `Z_END` standard deviations, before beyond `Z_EARLY`.

    Args:
        plan: Limits.
        elapsed: Seconds since the step began.
        champion: What the champion did meanwhile, or when it last answered enough requests.
        challenger: What the canary did since the step began.
    """
    complete = elapsed >= plan.step_seconds and challenger.requests >= plan.min_requests
    z = Z_END if complete else Z_EARLY
    drift = {"labels": drift_of_labels(champion, challenger, z), "scores": drift_of_scores(champion, challenger, z)}
    figures = {
        "seconds": round(elapsed, 3),
        "champion": champion.to_dict(),
        "challenger": challenger.to_dict(),
        "psi": {name: None if found is None else round(found[0], 4) for name, found in drift.items()},
    }
    reasons = [_about_errors(plan, champion, challenger, z), _about_times(plan, champion, challenger, z)]
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


def _about_errors(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    if not challenger.errors:
        return ""
    rate = challenger.errors / challenger.requests
    base = champion.errors / champion.requests if champion.requests else 0.0
    # With nobody to compare it with, as if a champion of as many requests had failed as often as is allowed.
    seen = champion.errors, champion.requests
    if not champion.requests:
        seen = math.ceil(plan.max_error_increase * challenger.requests), challenger.requests
    chance = fisher_p_value(seen, (challenger.errors, challenger.requests))
    if rate - base <= plan.max_error_increase or chance >= math.erfc(z / math.sqrt(2)) / 2:
        return ""
    return f"{rate:.1%} of its requests failed, {base:.1%} of the champion's"


def _about_times(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    """The ratio of the 95th percentiles.

    It counts if more than 5 % of the canary's requests are slower than the champion's percentile allows, and less than
    5 % of the champion's are slower than the canary's would allow: either percentile may be off by chance.
    """
    limit, own = champion.quantile(1 - _TAIL), challenger.quantile(1 - _TAIL)
    n, m = sum(champion.times), sum(challenger.times)
    if limit is None or own is None or min(n, m) < _LEAST_ROWS:
        return ""
    allowed = limit * plan.max_latency_ratio
    if own <= allowed or own - limit < _LEAST_SLOWER_SECONDS:
        return ""
    if wilson(challenger.slower(allowed) / m, m, z=z)[0] <= _TAIL:
        return ""
    if wilson(champion.slower(own / plan.max_latency_ratio) / n, n, z=z)[1] >= _TAIL:
        return ""
    return (
        f"it takes {own / limit:.2f} times as long as the champion (95th percentile {own * 1e3:.1f} ms, "
        f"{limit * 1e3:.1f} ms), allowed {plan.max_latency_ratio:g}"
    )


def drift_of_labels(champion: Figures, challenger: Figures, z: float) -> tuple[float, float] | None:
    """Stability index of the labels, and what chance makes of it; None if there is too little to compare."""
    width = max(len(champion.labels), len(challenger.labels))
    return _drift(_padded(champion.labels, width), _padded(challenger.labels, width), z)


def drift_of_scores(champion: Figures, challenger: Figures, z: float) -> tuple[float, float] | None:
    """The same of the scores, in the champion's deciles; a hundredth more or less is the same score."""
    ordered = sorted(champion.scores)
    if len(ordered) < _LEAST_ROWS:
        return None
    unit = _unit(ordered)
    first, second = ([round(score / unit) for score in one.scores] for one in (champion, challenger))
    counts = collections.Counter(first)
    edges = sorted({round(ordered[len(ordered) * i // _SCORE_BINS] / unit) for i in range(1, _SCORE_BINS)})
    # Intervals cannot tell a model that always says one thing from one that says less: such scores get their own bin.
    lumps = {edge for edge in edges if counts[edge] * _SCORE_BINS >= len(first)}
    return _drift(_binned(first, edges, lumps), _binned(second, edges, lumps), z)


def _unit(ordered: Sequence[float]) -> float:
    """A hundredth of the spread of sorted scores; of their size, if they hardly differ.

    Without it 1.0 and 0.9999, which a sure classifier says for half of all pictures, would be as far apart as can be.
    """
    spread = ordered[len(ordered) * 95 // 100] - ordered[len(ordered) * 5 // 100]
    size = abs(ordered[len(ordered) // 2])
    return max(spread if spread > 0.001 * size else size, 1e-9) / 100


def _drift(first: Sequence[int], second: Sequence[int], z: float) -> tuple[float, float] | None:
    n, m = sum(first), sum(second)
    if min(n, m) < _LEAST_ROWS:
        return None
    a, b = merge_sparse_bins(first, second)
    if len(a) < 2:
        return 0.0, math.inf
    return population_stability_index(a, b), stability_index_bound(len(a), n, m, z=z)


def _padded(counts: Sequence[int], width: int) -> list[int]:
    return [*counts, *[0] * (width - len(counts))]


def _binned(scores: Sequence[int], edges: Sequence[int], lumps: Set[int]) -> list[int]:
    """Counts of the scores between the edges, and of those that are one of the lumps."""
    counts = [0] * (2 * len(edges) + 1)
    for score in scores:
        counts[2 * bisect.bisect_left(edges, score) + (score in lumps)] += 1
    return counts
