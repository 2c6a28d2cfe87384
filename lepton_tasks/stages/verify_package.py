"""Stage verify_package: compare the package's answers with the trained network's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lepton_tasks.core.artifacts import ArtifactRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.components import learning_task_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError
from lepton_tasks.core.metrics import direction, is_worse
from lepton_tasks.core.protocols import LearningTask, Outputs
from lepton_tasks.core.redaction import Redaction
from lepton_tasks.core.store import sha256_file, write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.package import (
    ONNX_FILE,
    PARITY_FILE,
    PROFILE_FILE,
    REDACT_FILE,
    Package,
    copy_package,
    load_package,
    seal,
)
from lepton_tasks.serving.prediction_difference import difference
from lepton_tasks.stages import champion_comparison, replay

_ROUNDING = 1e-6  # relative tolerance of a metric that is a mean of float32


class _Check(NamedTuple):
    key: str
    limit: float
    value: float


def verify_package(
    use_case: UseCase,
    ctx: RunContext,
    *,
    exported: ModelPackageRef,
    evaluation: EvaluationRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
    compressed: ModelPackageRef | None = None,
) -> ModelPackageRef:
    """Compare the package's answers with torch's and write the parity report into the package.

    The outputs of an uncompressed network must match. Of a compressed one, only the loss of quality is limited, by
    `compress` and `gate.thresholds`.

    Raises:
        ArtifactError: ONNX Runtime refuses the package.
        ConfigError: `deploy.redact` names an unknown column.
        GateError: outputs, metrics or the answer to the example differ by more than the limit.
    """
    folder = ctx.open(compressed or exported)
    package, evaluated = load_package(folder, threads=0), ctx.open(evaluation)
    rule = _redaction(use_case, folder)
    expected = replay.read_outputs(evaluated / replay.SERVED_FILE)
    outputs = replay.outputs_of(package, replay.read_requests(evaluated))
    parity, checks = _output_checks(use_case, package, outputs, expected)
    task = _task(use_case, ctx, preprocessor, package)
    if task.replayable:
        more, checked = _serving_checks(use_case, parity["rows"], evaluated, expected)
        parity |= more
        checks += checked
        targets = task.evaluation_rows(ctx.open(features), "test").targets[: parity["rows"]]
        more, checked = _metric_checks(use_case, task, package, targets, outputs, expected)
        parity |= more
        checks += checked
    _raise_failed(use_case, parity, checks)
    if task.replayable and package.spec.compression is not None:
        champion = champion_comparison.compare(use_case, ctx, task, parity["metric"], evaluation, features, outputs)
        _check_champion(use_case, parity["metric"], package.spec.compression.name, champion)
    ctx.log.info("parity on %d requests: max difference %.2g", parity["rows"], parity["max_difference"])
    draft = ctx.draft()
    copy_package(folder, draft.path)
    write_json(draft.path / PARITY_FILE, parity)
    if rule is not None:
        write_json(draft.path / REDACT_FILE, rule.model_dump(mode="json", exclude_defaults=True))
    seal(draft.path)
    return ctx.publish(draft, ModelPackageRef, parity)


def _redaction(use_case: UseCase, folder: Path) -> Redaction | None:
    """`deploy.redact`, checked against the columns of the package's profile."""
    if (rule := use_case.deploy.redact) is not None:
        profile = json.loads((folder / PROFILE_FILE).read_text()) if (folder / PROFILE_FILE).exists() else {}
        rule.check_columns(profile.get("columns", {}), where=f"{use_case.name}.yaml: deploy.redact")
    return rule


def _output_checks(
    use_case: UseCase, package: Package, outputs: Outputs, expected: Outputs
) -> tuple[dict[str, Any], list[_Check]]:
    """Differences between the package's and torch's outputs; for a compressed graph only the example is checked."""
    largest, share = replay.differences(outputs, expected)
    example, limits = _example_difference(package), use_case.export
    parity = {
        "rows": len(next(iter(expected.values()))),
        "graph_sha256": sha256_file(package.folder / ONNX_FILE),
        "compression": package.spec.compression.name if package.spec.compression else None,
        "max_difference": largest,
        "mismatch_share": share,
        "example_difference": example,
    }
    checks = [_Check("export.max_difference", limits.max_difference, example)]
    if package.spec.compression is None:
        checks.append(_Check("export.max_difference", limits.max_difference, largest))
        checks.append(_Check("export.max_mismatch", limits.max_mismatch, share))
    return parity, checks


def _serving_checks(
    use_case: UseCase, rows: int, evaluated: Path, expected: Outputs
) -> tuple[dict[str, Any], list[_Check]]:
    """Differences between torch's outputs for requests and for the stored rows they were made from."""
    stored = replay.first_rows(replay.read_outputs(evaluated / replay.OUTPUTS_FILE), rows)
    largest, share = replay.differences(expected, stored)
    limits = use_case.export
    checks = [
        _Check("export.max_difference", limits.max_difference, largest),
        _Check("export.max_mismatch", limits.max_mismatch, share),
    ]
    return {"serving_difference": largest, "serving_mismatch_share": share}, checks


def champion_state(use_case: UseCase, ctx: RunContext, **refs: ArtifactRef) -> dict[str, Any] | None:
    """The champion, if a compressed graph, unknown to the gate, may be served."""
    return champion_comparison.champion_state(use_case, ctx, **refs) if use_case.compress is not None else None


def _check_champion(use_case: UseCase, metric: str, compression: str, champion: dict[str, Any] | None) -> None:
    """Raise `GateError` if a compressed graph is worse than the champion; the gate compared the trained network."""
    if champion is None or not champion["compared"]:
        return
    value = champion["candidate"]
    if is_worse(metric, value, champion_comparison.limit(use_case, metric, champion)):
        raise GateError(
            f"{metric} {value:.4f} of the graph that would be served ({compression}) falls behind the champion's"
            f" (version {champion['version']}) {champion[metric]:.4f} by more than {use_case.gate.max_drop:g}.",
            where=f"{use_case.name}.yaml: gate.max_drop",
            fix=f"Remove {compression!r} from compress.candidates, or lower compress.max_metric_drop.",
        )


def _task(use_case: UseCase, ctx: RunContext, preprocessor: PreprocessorRef, package: Package) -> LearningTask:
    fitted = ctx.read_json(preprocessor, "preprocessor.json")["fitted"]
    return learning_task_of(use_case, fitted, package.spec.labels)


def _metric_checks(
    use_case: UseCase, task: LearningTask, package: Package, targets: np.ndarray, outputs: Outputs, expected: Outputs
) -> tuple[dict[str, Any], list[_Check]]:
    """The gate's metric of both, with its allowed loss; for a compressed graph also thresholds and labels."""
    metric = use_case.gate.metric or task.metric
    by_torch, by_onnx = (task.metrics(answers, targets) for answers in (expected, outputs))
    before, now = by_torch[metric], by_onnx[metric]
    drop = (before - now) * direction(metric) - _ROUNDING * max(1.0, abs(before))
    metrics = {"metric": metric, "metric_torch": before, "metric_onnx": now}
    if package.spec.compression is None or use_case.compress is None:
        return metrics, [_Check("export.max_metric_drop", use_case.export.max_metric_drop, drop)]
    checks = [_Check("compress.max_metric_drop", 2 * use_case.compress.max_metric_drop, drop)]
    for name, limit in use_case.gate.thresholds.items():
        # Only the loss by compression: on these requests the trained network itself may miss a threshold.
        if name in by_onnx and is_worse(name, by_onnx[name], limit) and not is_worse(name, by_torch[name], limit):
            checks.append(_Check(f"gate.thresholds.{name}", 0.0, abs(by_onnx[name] - limit)))
    mismatch = replay.label_mismatch(package.output_codec, outputs, expected)
    if mismatch is not None:  # twice the limit on the validation split, as for the metric
        checks.append(_Check("compress.max_mismatch", 2 * use_case.compress.max_mismatch, mismatch))
    return metrics | {"label_mismatch": mismatch}, checks


def _raise_failed(use_case: UseCase, parity: dict[str, Any], checks: list[_Check]) -> None:
    """Raise `GateError` for the first value that is above its limit."""
    for check in checks:
        if not check.value <= check.limit:  # also rejects NaN
            fix = "Another export.opset may help; raise the limit only if you know why."
            if parity["compression"] is not None:
                fix = f"Take {parity['compression']!r} out of compress.candidates, or lower compress.max_metric_drop."
            raise GateError(
                f"the package's answers differ from the trained network's: {json.dumps(parity)};"
                f" {check.value:g} is above the limit of {check.limit:g}.",
                where=f"{use_case.name}.yaml: {check.key}",
                fix=fix,
            )


def _example_difference(package: Package) -> float:
    """Difference between the answer to the package's example, run as a request, and the expected one."""
    example = package.example()
    return difference(package.predict(example[0]), example[1]) if example is not None else 0.0
