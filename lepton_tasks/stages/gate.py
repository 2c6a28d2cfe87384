"""The promotion test: a candidate must reach the thresholds, and must not fall behind the champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.components import learning_task_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError, GateError
from lepton_tasks.core.metrics import higher_is_better, is_worse
from lepton_tasks.core.protocols import LearningTask
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages import replay
from lepton_tasks.tracking import registry

_CHAMPION = "champion"


def champion_state(use_case: UseCase, ctx: RunContext, **refs: ArtifactRef) -> dict[str, Any] | None:
    """Version and package digest of the champion; None if there is none, or if it is the candidate itself."""
    found = registry.alias(ctx.environment.tracking_url, use_case.name, _CHAMPION)
    if found is None or found["run_id"] == refs["evaluation"].facts["mlflow_run_id"]:
        return None
    return {"version": found["version"], "package_digest": found["tags"].get("lepton.package_digest")}


def gate(
    use_case: UseCase,
    ctx: RunContext,
    *,
    evaluation: EvaluationRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
) -> EvaluationRef:
    """The verdict, also logged to the MLflow run.

    Raises:
        GateError: a threshold is missed, or the champion is better by more than ``gate.max_drop``.
        ConfigError: a metric is named that the learning task does not compute.
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
        _check(f"gate.thresholds.{name}", name, metrics[name], limit)
        for name, limit in use_case.gate.thresholds.items()
    ]
    champion = _compare(use_case, ctx, task, metric, evaluation, features)
    if champion is not None and champion["compared"]:
        drop = use_case.gate.max_drop * (1 if higher_is_better(metric) else -1)
        checks.append(_check("gate.max_drop", metric, champion["candidate"], champion[metric] - drop))
    passed = all(check["passed"] for check in checks)
    verdict = {"passed": passed, "metrics": metrics, "checks": checks, "champion": champion}
    draft = ctx.draft()
    write_json(draft.path / "verdict.json", verdict)
    try:
        _log(ctx, str(evaluation.facts["mlflow_run_id"]), draft.path / "verdict.json", passed=passed)
        if not passed:
            raise _refusal(use_case, checks, champion)
    except BaseException:
        draft.discard()
        raise
    return ctx.publish(draft, EvaluationRef, {"passed": True, "champion": champion["version"] if champion else None})


def _check(name: str, metric: str, value: float, limit: float) -> dict[str, Any]:
    passed = not is_worse(metric, value, limit)
    return {"name": name, "metric": metric, "value": value, "limit": limit, "passed": passed}


def _compare(
    use_case: UseCase,
    ctx: RunContext,
    task: LearningTask,
    metric: str,
    evaluation: EvaluationRef,
    features: DatasetRef,
) -> dict[str, Any] | None:
    """The champion's figures on the candidate's test split, or why there are none; None without a champion."""
    found = registry.alias(ctx.environment.tracking_url, use_case.name, _CHAMPION)
    if found is None:
        ctx.log.info("no champion yet: only the thresholds count")
        return None
    result: dict[str, Any] = {"version": found["version"], "compared": False}
    if found["run_id"] == evaluation.facts["mlflow_run_id"]:
        return {**result, "reason": "it is this very model"}
    tags = found["tags"]
    if task.replayable:
        package = ModelPackageRef(
            uri=tags.get("lepton.package_uri", ""), digest=tags.get("lepton.package_digest", ""), stage="verify_package"
        )
        try:
            folder = ctx.open(package)
            result |= _contest(use_case, task, metric, folder, ctx.open(evaluation), ctx.open(features))
        except ArtifactError as error:
            result["reason"] = str(error)
    elif tags.get("lepton.features_digest") != features.digest or f"lepton.test_{metric}" not in tags:
        result["reason"] = "it was tested on other data, and its answers to requests cannot be judged"
    else:
        known = {metric: float(tags[f"lepton.test_{metric}"]), "candidate": evaluation.facts[f"test_{metric}"]}
        result |= {"compared": True, "p_value": None, **known}
    if not result["compared"]:
        ctx.log.warning("not compared with the champion, version %s: %s", found["version"], result["reason"])
    return result


def _contest(
    use_case: UseCase, task: LearningTask, metric: str, champion: Path, evaluation: Path, features: Path
) -> dict[str, Any]:
    """Ask the champion what the candidate was asked, and compare the answers row by row."""
    from lepton_tasks.learning.significance import mcnemar
    from lepton_tasks.serving.package import load_package

    package = load_package(champion, threads=0)
    spec = package.spec
    preprocessor = json.loads((champion / "preprocessor.json").read_text())
    for what, theirs, ours in (
        ("task", spec.task, use_case.learning_task.name),
        ("labels", list(spec.labels), json.loads((features / "dataset.json").read_text())["labels"]),
        ("feature extractor", preprocessor.get("extractor"), use_case.features.model_dump()),
    ):
        if theirs != ours:
            return {"compared": False, "reason": f"its {what} is {theirs}, the candidate's {ours}"}
    payloads = replay.read_requests(evaluation)
    targets = task.evaluation_rows(features, "test").targets[: len(payloads)]
    candidate = replay.first_rows(replay.read_outputs(evaluation / replay.OUTPUTS_FILE), len(payloads))
    try:
        outputs = replay.outputs_of(package, payloads)
    except DataError as error:  # what is asked now has another form than what it was made for
        return {"compared": False, "reason": f"it cannot read a request of today: {error}"}
    result: dict[str, Any] = {
        "compared": True,
        **task.metrics(outputs, targets),
        "candidate": task.metrics(candidate, targets)[metric],
        "p_value": None,
    }
    ours_right, theirs_right = task.right(candidate, targets), task.right(outputs, targets)
    if ours_right is not None and theirs_right is not None:
        pairs = mcnemar(ours_right, theirs_right)
        result |= {
            "only_candidate_right": pairs["only_first"],
            "only_champion_right": pairs["only_second"],
            "p_value": pairs["p_value"],
        }
    return result


def _log(ctx: RunContext, run_id: str, verdict: Path, *, passed: bool) -> None:
    from lepton_tasks.tracking.mlflow import Tracker

    tracker = Tracker(ctx.environment.tracking_url)
    tracker.files(run_id, verdict, at="gate")
    tracker.tags(run_id, {"lepton.gate": "passed" if passed else "failed"})


def _refusal(use_case: UseCase, checks: list[dict[str, Any]], champion: dict[str, Any] | None) -> GateError:
    parts = []
    for check in checks:
        if not check["passed"]:
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
    failed = next(check["name"] for check in checks if not check["passed"])
    return GateError(
        "; ".join(parts) + ".",
        where=f"{use_case.name}.yaml: {failed}",
        fix=f"{stays}Train longer, or with more or better data; or relax `{failed}`.",
    )
