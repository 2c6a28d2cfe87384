"""Monitor `performance`: answer quality from feedback, server errors, latency."""

from __future__ import annotations

import array
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import Finding, Severity
from lepton_tasks.core.metrics import higher_is_better, is_worse, unit_of
from lepton_tasks.core.proportions import wilson
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.live_metrics import OF_LABELS, OF_NUMBERS, Estimate, estimate, weakest_label
from lepton_tasks.monitoring.notebook import Notebook, package_json, requests_since
from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, REST, read_outcomes

_HOUR = 3600.0
_LEAST_FOR_P99 = 100
_REFUSED = 503
_OF_REQUESTS = ("id", "status", "seconds")
_OF_ANSWERS = ("id", "status", "label", REST)  # numbers are in the rest
_finding = functools.partial(Finding, "performance")
_Milliseconds = Annotated[float, pydantic.Field(gt=0)] | None


@dataclasses.dataclass(frozen=True)
class Performance:
    """Compare live quality, known from feedback, with the test split and the gate; check errors and latency.

    Feedback and requests since the last judgement count.

    Args:
        max_drop: By how much a metric may be worse than on the test split: a share absolutely (0.05 is five percentage
            points), another metric relatively. What is worse beyond chance is a warning.
        max_errors: Largest allowed share of requests that the server fails at (status 500 and above; 503 is a refusal
            under load, which `resources` watches).
        max_p50_ms: Largest allowed median time to answer in ms; null for none.
        max_p99_ms: Time in ms within which 99 % of the requests must be answered; null for none.
        least: Minimum number of answers with a known label, and of requests.
        reach_hours: Maximum age of an answer that feedback refers to.
        last: Maximum number of labelled answers examined, the latest ones.
    """

    max_drop: Annotated[float, pydantic.Field(ge=0)] = 0.05
    max_errors: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.01
    max_p50_ms: _Milliseconds = None
    max_p99_ms: _Milliseconds = None
    least: Annotated[int, pydantic.Field(ge=10)] = 50
    reach_hours: Annotated[float, pydantic.Field(gt=0)] = 168.0
    last: Annotated[int, pydantic.Field(ge=10)] = 10_000

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """Findings about errors, time to answer, and each metric that feedback tells."""
        notes = Notebook(ctx, use_case, "performance", endpoint)
        figures: dict[str, Any] = {}
        asked, until = self._asked(ctx, use_case, notes, figures)
        limits: dict[str, dict[str, float]] = {}
        judged, heard = self._judged(ctx, use_case, endpoint, notes, figures, limits)
        notes.remember({"until": until, "heard": heard})
        if figures:
            figures["time"] = max(until, heard)
            from lepton_tasks.monitoring.plots import plot_performance

            plot_performance(notes.plot, notes.add(figures), limits)
        return [*asked, *judged]

    def _asked(
        self, ctx: RunContext, use_case: UseCase, notes: Notebook, figures: dict[str, Any]
    ) -> tuple[list[Finding], float]:
        """Findings about requests, and the time of the last one that was judged."""
        since = notes.mark.get("until", 0.0)
        until, failed, rows, times = since, 0, 0, array.array("d")
        for record in requests_since(ctx, use_case, notes.version, since, _OF_REQUESTS):
            until = max(until, record["time"])
            if "/" in (key := record.get("id") or "") and not key.endswith("/0"):
                continue  # a request counts once, however many samples it has
            rows += 1
            failed += record["status"] >= 500 and record["status"] != _REFUSED
            if record["status"] == 200:
                times.append(record["seconds"])
        if rows < self.least:
            few = f"{rows} requests are too few to judge (minimum: {self.least})"
            message = few if rows else "no requests since the last check" if since else "no requests yet"
            return [_finding("ok", message, None, None, "share", "errors")], since
        return [self._errors(failed, rows), *self._times(np.array(times) * 1e3, figures)], until

    def _errors(self, failed: int, rows: int) -> Finding:
        share = failed / rows
        low, high = wilson(share, rows)
        broken = low > self.max_errors
        message = (
            f"the server failed on {failed:,} of {rows:,} requests: {share:.2%} (95 %: {low:.2%} to {high:.2%}; "
            f"limit {self.max_errors:.2%})"
        )
        return _finding("critical" if broken else "ok", message, share, self.max_errors, "share", "errors")

    def _times(self, times: np.ndarray, figures: dict[str, Any]) -> list[Finding]:
        """Findings about the times to answer, in ms."""
        if not len(times):
            return []
        p50, p99 = np.percentile(times, [50, 99])
        known = {"p50": (float(p50), self.max_p50_ms)}
        if len(times) >= _LEAST_FOR_P99:
            known["p99"] = (float(p99), self.max_p99_ms)
        figures["latency_ms"] = {name: round(value, 3) for name, (value, _) in known.items()}
        findings = []
        for name, (value, limit) in known.items():
            share = "half" if name == "p50" else "99 %"
            allowed = "no limit is set" if limit is None else f"limit {limit:g} ms"
            message = f"{share} of {len(times):,} requests were answered within {value:.1f} ms ({allowed})"
            slow = limit is not None and value > limit
            findings.append(_finding("warning" if slow else "ok", message, round(value, 3), limit, "ms", name))
        return findings

    def _judged(
        self,
        ctx: RunContext,
        use_case: UseCase,
        endpoint: EndpointRef,
        notes: Notebook,
        figures: dict[str, Any],
        limits: dict[str, dict[str, float]],
    ) -> tuple[list[Finding], float]:
        """Findings about quality, and the time of the last feedback that was judged."""
        heard = notes.mark.get("heard", 0.0)
        oldest = ctx.clock().timestamp() - self.reach_hours * _HOUR
        folder = ctx.root / "serving" / REQUESTS_FOLDER
        outcomes = list(read_outcomes(folder, use_case.name, since=max(heard, oldest)))
        truths = {outcome["id"]: outcome.get("label") for outcome in outcomes}
        pairs, of_labels = self._pairs(ctx, use_case, notes, truths, oldest) if truths else ([], False)
        if len(pairs) < self.least:
            few = f"{len(pairs)} answers with a known label are too few to judge quality (minimum: {self.least})"
            message = few if truths else "no feedback since the last check" if heard else "no feedback yet"
            return [_finding("ok", message, None, None, "", "quality")], heard
        said, true = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        package, profile = (package_json(ctx, endpoint, name) for name in ("package.json", "profile.json"))
        tested = package.get("metrics", {})
        findings = []
        for metric in _metrics(use_case, tested, of_labels):
            live = estimate(metric, said, true)
            findings.append(self._quality(use_case, live, tested.get(metric), profile.get("test_rows")))
            figures.setdefault("quality", {})[metric] = [live.value, live.low, live.high]
            lines = {"test split": tested.get(metric), "gate": use_case.gate.thresholds.get(metric)}
            limits[metric] = {name: value for name, value in lines.items() if value is not None}
        worse = next((i for i, finding in enumerate(findings) if finding.severity != "ok"), None)
        if of_labels and worse is not None and (weak := weakest_label(said, true)):
            label, right, rows = weak
            message = f"{findings[worse].message}; weakest label: {label}, {right} of {rows} right"
            findings[worse] = dataclasses.replace(findings[worse], message=message)
        return findings, outcomes[-1]["time"]

    def _pairs(
        self, ctx: RunContext, use_case: UseCase, notes: Notebook, truths: Mapping[str, Any], oldest: float
    ) -> tuple[list[tuple[Any, Any]], bool]:
        """What was answered and what was right, and whether these are labels."""
        labels: list[tuple[Any, Any]] = []
        numbers: list[tuple[Any, Any]] = []
        for record in requests_since(ctx, use_case, notes.version, oldest, _OF_ANSWERS):
            truth = truths.get(record.get("id") or "")
            if truth is None or record["status"] != 200:
                continue
            if record.get("label") is not None:
                labels.append((str(record["label"]), str(truth)))
            elif isinstance(value := record.get("value"), float) and (number := _number(truth)) is not None:
                numbers.append((value, number))
        of_labels = len(labels) >= len(numbers)
        return (labels if of_labels else numbers)[-self.last :], of_labels

    def _quality(self, use_case: UseCase, live: Estimate, test: float | None, test_rows: int | None) -> Finding:
        threshold = use_case.gate.thresholds.get(live.metric)
        share = unit_of(live.metric) == "share"
        shown = "{:.1%}".format if share else "{:.4g}".format
        missed = threshold is not None and is_worse(live.metric, live.best, threshold)
        room = self.max_drop * (1.0 if share else abs(test or 0.0))
        dropped = test is not None and live.least_loss(test, test_rows) > room
        severity: Severity = "critical" if missed else "warning" if dropped else "ok"
        limit = threshold if missed or test is None else test - room if higher_is_better(live.metric) else test + room
        parts = [
            f"{live.metric} of {live.rows:,} answers with a known label is {shown(live.value)} "
            f"(95 %: {shown(live.low)} to {shown(live.high)})"
        ]
        if test is not None:
            parts.append(f"on the test split it was {shown(test)}, tolerance {shown(room)}")
        if threshold is not None:
            parts.append(f"the gate requires {shown(threshold)}")
        if severity == "ok" and limit is not None and is_worse(live.metric, live.value, limit):
            parts.append("the rest may be chance")
        unit = unit_of(live.metric) or live.metric
        return _finding(severity, "; ".join(parts), live.value, limit, unit, live.metric)


def _metrics(use_case: UseCase, tested: Mapping[str, float], of_labels: bool) -> list[str]:
    """The gate's metric and those with a threshold, as far as feedback tells them; else the usual one."""
    known = OF_LABELS if of_labels else OF_NUMBERS
    wanted = [use_case.gate.metric, *use_case.gate.thresholds]
    usual = "accuracy" if of_labels else "mae" if "mae" in tested and "rmse" not in tested else "rmse"
    return list(dict.fromkeys(name for name in wanted if name in known)) or [usual]


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
