"""Whether a canary goes on, waits or goes back: figures in, verdict out."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from lepton_tasks.core.proportions import Z95, newcombe, pooled, stability, stability_by_chance, wilson
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.tally import Figures

# While a step runs it is judged again and again, so chance has many tries: only what is beyond doubt ends it early.
Z_EARLY = 3.29
_TAIL = 0.05  # the share of requests beyond the 95th percentile
_LEAST_ROWS = 50  # of both versions, for their answers to be compared
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
    step with 95 % (`Z95`), before with 99.9 %.

    Args:
        plan: Limits.
        elapsed: Seconds since the step began.
        champion: What the champion did meanwhile, or when it last answered enough requests.
        challenger: What the canary did since the step began.
    """
    complete = elapsed >= plan.step_seconds and challenger.requests >= plan.min_requests
    z = Z95 if complete else Z_EARLY
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
        return Verdict("on", f"nothing speaks against it after {challenger.requests} requests", figures)
    waits = f"{challenger.requests} of {plan.min_requests} requests, {elapsed:.0f} of {plan.step_seconds:g} s"
    return Verdict("wait", waits, figures)


def _about_errors(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    if not challenger.errors:
        return ""
    rate = challenger.errors / challenger.requests
    base = champion.errors / champion.requests if champion.requests else 0.0
    least = wilson(rate, challenger.requests, z=z)[0]
    if champion.requests:
        seen = (champion.errors, champion.requests), (challenger.errors, challenger.requests)
        least = newcombe(*seen, z=z)[0]
    if rate - base <= plan.max_error_increase or least <= 0:
        return ""
    return f"{rate:.1%} of its requests failed, {base:.1%} of the champion's"


def _about_times(plan: Rollout, champion: Figures, challenger: Figures, z: float) -> str:
    """The ratio of the 95th percentiles; significant if more than 5 % are slower than the largest time allowed."""
    limit, own = champion.quantile(1 - _TAIL), challenger.quantile(1 - _TAIL)
    if limit is None or own is None:
        return ""
    allowed = limit * plan.max_latency_ratio
    answered = challenger.requests - challenger.errors
    least = wilson(challenger.slower(allowed) / answered, answered, z=z)[0]
    if own <= allowed or own - limit < _LEAST_SLOWER_SECONDS or least <= _TAIL:
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
    """The same of the scores, in the champion's deciles."""
    ordered = sorted(champion.scores)
    if len(ordered) < _LEAST_ROWS:
        return None
    edges = sorted({ordered[len(ordered) * i // _SCORE_BINS] for i in range(1, _SCORE_BINS)})
    return _drift(_binned(champion.scores, edges), _binned(challenger.scores, edges), z)


def _drift(first: Sequence[int], second: Sequence[int], z: float) -> tuple[float, float] | None:
    n, m = sum(first), sum(second)
    if min(n, m) < _LEAST_ROWS:
        return None
    a, b = pooled(first, second)
    if len(a) < 2:
        return 0.0, math.inf
    return stability(a, b), stability_by_chance(len(a), n, m, z=z)


def _padded(counts: Sequence[int], width: int) -> list[int]:
    return [*counts, *[0] * (width - len(counts))]


def _binned(scores: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Scores between the edges, and those that are an edge: a model that always says 1.0 has no others."""
    counts = [0] * (2 * len(edges) + 1)
    for score in scores:
        i = bisect.bisect_left(edges, score)
        counts[2 * i + (i < len(edges) and edges[i] == score)] += 1
    return counts
