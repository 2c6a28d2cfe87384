"""Stage gate: check thresholds and compare the candidate with the champion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import DatasetRef, EvaluationRef, PreprocessorRef
from lepton_tasks.core.components import learning_task_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, GateError
from lepton_tasks.core.metrics import higher_is_better, is_worse
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages import champion_comparison


def gate(
    use_case: UseCase,
    ctx: RunContext,
    *,
    evaluation: EvaluationRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
) -> EvaluationRef:
    """Check thresholds and compare with the champion; log the verdict to MLflow.

    Raises:
        GateError: a metric is not a finite number, a threshold is missed, or the champion is better by more than
            ``gate.max_drop``.
        ConfigError: the learning task does not compute a named metric.
    """
    metrics = ctx.read_json(evaluation, "metrics.json")["test"]
    fitted = ctx.read_json(preprocessor, "preprocessor.json")
    task = learning_task_of(use_case, fitted["fitted"], fitted["labels"])
    metric = use_case.gate.metric or task.metric
    for name in (metric, *use_case.gate.thresholds):
        if name not in metrics:
            raise ConfigError(
                f"no metric named {name!r}.", where=f"{use_case.name}.yaml: gate", fix=did_you_mean(name, metrics)
            )
    checks = [
        {"name": "gate", "metric": name, "value": value, "limit": None, "passed": False}
        for name, value in metrics.items()
        if not math.isfinite(value)
    ]
    checks += [
        _check(f"gate.thresholds.{name}", name, metrics[name], limit)
        for name, limit in use_case.gate.thresholds.items()
    ]
    champion = champion_comparison.compare(use_case, ctx, task, metric, evaluation, features)
    if champion is not None and champion["compared"]:
        limit = champion_comparison.limit(use_case, metric, champion)
        checks.append(_check("gate.max_drop", metric, champion["candidate"], limit))
    passed = all(check["passed"] for check in checks)
    verdict = {"passed": passed, "metrics": metrics, "checks": checks, "champion": champion}
    draft = ctx.draft()
    write_json(draft.path / "verdict.json", verdict)
    try:
        _log(ctx, str(evaluation.facts["mlflow_run_id"]), draft.path / "verdict.json", passed=passed)
        if not passed:
            raise _gate_error(use_case, checks, champion)
    except BaseException:
        draft.discard()
        raise
    return ctx.publish(draft, EvaluationRef, {"passed": True, "champion": champion["version"] if champion else None})


def _check(name: str, metric: str, value: float, limit: float) -> dict[str, Any]:
    passed = not is_worse(metric, value, limit)
    return {"name": name, "metric": metric, "value": value, "limit": limit, "passed": passed}


def _log(ctx: RunContext, run_id: str, verdict: Path, *, passed: bool) -> None:
    from lepton_tasks.tracking.mlflow import Tracker

    tracker = Tracker(ctx.environment.tracking_url)
    tracker.files(run_id, verdict, at="gate")
    tracker.tags(run_id, {"lepton.gate": "passed" if passed else "failed"})


def _gate_error(use_case: UseCase, checks: list[dict[str, Any]], champion: dict[str, Any] | None) -> GateError:
    parts = []
    for check in checks:
        if not check["passed"] and check["limit"] is None:
            parts.append(f"{check['metric']} on the test split is {check['value']}, which is no figure")
        elif not check["passed"]:
            side = "below" if higher_is_better(check["metric"]) else "above"
            text = f"{check['metric']} {check['value']:.4f} on the test split is {side} {check['limit']:.4f}"
            if check["name"] == "gate.max_drop" and champion is not None:
                p_value = champion["p_value"]
                chance = "" if p_value is None else f" (p = {p_value:.2g} if both are as good)"
                text += (
                    f": the champion (version {champion['version']}) has {champion[check['metric']]:.4f}, and"
                    f" {use_case.gate.max_drop:g} worse is allowed{chance}"
                )
            parts.append(text)
    stays = f"Version {champion['version']} stays champion. " if champion is not None else ""
    failed = next(check for check in checks if not check["passed"])
    relaxed = "" if failed["limit"] is None else f"; or relax `{failed['name']}`"
    return GateError(
        "; ".join(parts) + ".",
        where=f"{use_case.name}.yaml: {failed['name']}",
        fix=f"{stays}Train longer, or with more or better data{relaxed}.",
    )
