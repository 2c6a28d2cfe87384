"""Whether the package answers as the trained network did, to requests made of the test split and to its own example."""

from __future__ import annotations

import json
from typing import Any

from lepton_tasks.core.artifacts import DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.components import learning_task_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError
from lepton_tasks.core.metrics import higher_is_better
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.answers import difference
from lepton_tasks.serving.package import Package, load_package
from lepton_tasks.stages import replay

_ROUNDING = 1e-6  # of a metric that is a mean of float32: no loss


def verify_package(
    use_case: UseCase,
    ctx: RunContext,
    *,
    package: ModelPackageRef,
    evaluation: EvaluationRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
) -> EvaluationRef:
    """Differences of the package's outputs from torch's, and of served from stored rows; the metric by both.

    Raises:
        ArtifactError: ONNX Runtime refuses the package.
        GateError: an output, the metric or the answer to the example differs by more than `export` allows.
    """
    loaded, judged, limits = load_package(ctx.open(package), threads=0), ctx.open(evaluation), use_case.export
    payloads = replay.read_requests(judged)
    expected = replay.read_outputs(judged / replay.SERVED_FILE)
    outputs = replay.outputs_of(loaded, payloads)
    largest, share = replay.differences(outputs, expected)
    parity: dict[str, Any] = {
        "rows": len(payloads),
        "max_difference": largest,
        "mismatch_share": share,
        "example_difference": _example_difference(loaded),
    }
    checks = [
        ("max_difference", limits.max_difference, largest),
        ("max_mismatch", limits.max_mismatch, share),
        ("max_difference", limits.max_difference, parity["example_difference"]),
    ]
    fitted = ctx.read_json(preprocessor, "preprocessor.json")["fitted"]
    task = learning_task_of(use_case, fitted, loaded.spec.labels)
    if task.replayable:
        stored = replay.first_rows(replay.read_outputs(judged / replay.OUTPUTS_FILE), len(payloads))
        parity["serving_difference"], parity["serving_mismatch_share"] = replay.differences(expected, stored)
        metric = use_case.gate.metric or task.metric
        targets = task.evaluation_rows(ctx.open(features), "test").targets[: len(payloads)]
        by_torch, by_onnx = (task.metrics(answers, targets)[metric] for answers in (expected, outputs))
        drop = (by_torch - by_onnx) * (1 if higher_is_better(metric) else -1)
        parity |= {"metric": metric, "metric_torch": by_torch, "metric_onnx": by_onnx}
        checks += [
            ("max_difference", limits.max_difference, parity["serving_difference"]),
            ("max_mismatch", limits.max_mismatch, parity["serving_mismatch_share"]),
            ("max_metric_drop", limits.max_metric_drop, drop - _ROUNDING * max(1.0, abs(by_torch))),
        ]
    for key, limit, value in checks:
        if not value <= limit:  # so that a NaN is refused
            raise GateError(
                f"the package answers otherwise than the trained network: {json.dumps(parity)}; allowed is {limit:g}.",
                where=f"{use_case.name}.yaml: export.{key}",
                fix="Another export.opset may help; raise the limit only if you know why.",
            )
    ctx.log.info("parity on %d requests: max difference %.2g", parity["rows"], largest)
    draft = ctx.draft()
    write_json(draft.path / "parity.json", parity)
    return ctx.publish(draft, EvaluationRef, parity)


def _example_difference(package: Package) -> float:
    """How far the answer to the package's example, run as a request would be, is from the expected one."""
    example = package.example()
    return difference(package.predict(example[0]), example[1]) if example is not None else 0.0
