"""Paired comparison of candidate and champion on the same requests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef, DatasetRef, EvaluationRef, ModelPackageRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, DataError
from lepton_tasks.core.metrics import direction
from lepton_tasks.core.protocols import LearningTask, Outputs
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


def compare(
    use_case: UseCase,
    ctx: RunContext,
    task: LearningTask,
    metric: str,
    evaluation: EvaluationRef,
    features: DatasetRef,
    outputs: Outputs | None = None,
) -> dict[str, Any] | None:
    """Compare the champion with the candidate on the candidate's test split; None without a champion.

    Args:
        use_case: The use case.
        ctx: The run context.
        task: Computes the metrics.
        metric: The metric to compare.
        evaluation: Requests, and the trained network's outputs.
        features: Targets of the test split.
        outputs: The candidate's outputs for the requests; default those of the trained network.

    Returns:
        ``version`` and ``compared``; if compared, the champion's metrics, the ``candidate``'s metric and the
        ``p_value`` of McNemar's test; otherwise the ``reason``.
    """
    found = registry.alias(ctx.environment.tracking_url, use_case.name, _CHAMPION)
    if found is None:
        ctx.log.info("no champion yet: only the thresholds apply")
        return None
    result: dict[str, Any] = {"version": found["version"], "compared": False}
    if found["run_id"] == evaluation.facts["mlflow_run_id"]:
        return {**result, "reason": "it is the same model"}
    tags = found["tags"]
    if task.replayable:
        package = ModelPackageRef(
            uri=tags.get("lepton.package_uri", ""), digest=tags.get("lepton.package_digest", ""), stage="verify_package"
        )
        try:
            folder = ctx.open(package)
            result |= _compare_outputs(
                use_case, task, metric, folder, ctx.open(evaluation), ctx.open(features), outputs
            )
        except ArtifactError as error:
            result["reason"] = str(error)
    elif tags.get("lepton.features_digest") != features.digest or f"lepton.test_{metric}" not in tags:
        result["reason"] = "it was tested on other data, and its answers to requests cannot be evaluated"
    else:
        values = {metric: float(tags[f"lepton.test_{metric}"]), "candidate": evaluation.facts[f"test_{metric}"]}
        result |= {"compared": True, "p_value": None, **values}
    if not result["compared"]:
        ctx.log.warning("not compared with the champion, version %s: %s", found["version"], result["reason"])
    return result


def limit(use_case: UseCase, metric: str, champion: Mapping[str, Any]) -> float:
    """Required metric of a candidate: the champion's, as `compare` found it, less ``gate.max_drop``.

    If the champion's metric is NaN, the worst possible value: any number is better.
    """
    required = float(champion[metric]) - use_case.gate.max_drop * direction(metric)
    return -math.inf * direction(metric) if math.isnan(required) else required


def _compare_outputs(
    use_case: UseCase,
    task: LearningTask,
    metric: str,
    champion: Path,
    evaluation: Path,
    features: Path,
    candidate: Outputs | None,
) -> dict[str, Any]:
    """Send the candidate's requests to the champion's package, and compare the outputs row by row."""
    from lepton_tasks.learning.significance import mcnemar
    from lepton_tasks.serving.package import load_package

    package = load_package(champion, threads=0)
    spec = package.spec
    preprocessor = json.loads((champion / "preprocessor.json").read_text())
    for aspect, champion_value, candidate_value in (
        ("task", spec.task, use_case.learning_task.name),
        ("labels", list(spec.labels), json.loads((features / "dataset.json").read_text())["labels"]),
        ("feature extractor", preprocessor.get("extractor"), use_case.features.model_dump()),
    ):
        if champion_value != candidate_value:
            return {"compared": False, "reason": f"its {aspect} is {champion_value}, the candidate's {candidate_value}"}
    payloads = replay.read_requests(evaluation)
    targets = task.evaluation_rows(features, "test").targets[: len(payloads)]
    if candidate is None:
        candidate = replay.first_rows(replay.read_outputs(evaluation / replay.OUTPUTS_FILE), len(payloads))
    try:
        outputs = replay.outputs_of(package, payloads)
    except DataError as error:  # the format of requests has changed since
        return {"compared": False, "reason": f"it cannot read current requests: {error}"}
    result: dict[str, Any] = {
        "compared": True,
        **task.metrics(outputs, targets),
        "candidate": task.metrics(candidate, targets)[metric],
        "p_value": None,
    }
    candidate_correct, champion_correct = task.right(candidate, targets), task.right(outputs, targets)
    if candidate_correct is not None and champion_correct is not None:
        pairs = mcnemar(candidate_correct, champion_correct)
        result |= {
            "only_candidate_right": pairs["only_first"],
            "only_champion_right": pairs["only_second"],
            "p_value": pairs["p_value"],
        }
    return result
