"""Whether the package answers as the trained network did, on the whole test split and on its own example."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from lepton_tasks.core.artifacts import DatasetRef, EvaluationRef, ModelPackageRef
from lepton_tasks.core.catalogue import LEARNING_TASKS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.package import Package, load_package

_BATCH = 256


def verify_package(
    use_case: UseCase,
    ctx: RunContext,
    *,
    package: ModelPackageRef,
    evaluation: EvaluationRef,
    features: DatasetRef,
) -> EvaluationRef:
    """Largest difference of an output, and the gate's metric by torch and by ONNX Runtime.

    Raises:
        ArtifactError: ONNX Runtime refuses the package.
        GateError: an output, the metric or the answer to the example differs by more than `export` allows.
    """
    loaded = load_package(ctx.open(package), threads=0)
    data = ctx.open(features)
    targets = np.load(data / "test" / "targets.npy")
    expected = np.load(ctx.open(evaluation) / "outputs.npy")
    outputs = outputs_of(loaded, np.load(data / "test" / "inputs.npy", mmap_mode="r"))
    task = LEARNING_TASKS.build(use_case.learning_task.name, use_case.learning_task.params, where="task")
    metric, labels, limits = use_case.gate.metric, loaded.spec.labels, use_case.export
    parity: dict[str, Any] = {
        "rows": len(targets),
        "max_difference": float(np.abs(outputs - expected).max()),
        "metric": metric,
        "metric_torch": task.metrics(expected, targets, labels)[metric],
        "metric_onnx": task.metrics(outputs, targets, labels)[metric],
        "example_difference": _example_difference(loaded),
    }
    for key, limit, value in (
        ("max_difference", limits.max_difference, parity["max_difference"]),
        ("max_difference", limits.max_difference, parity["example_difference"]),
        ("max_metric_drop", limits.max_metric_drop, parity["metric_torch"] - parity["metric_onnx"]),
    ):
        if not value <= limit:  # so that a NaN is refused
            raise GateError(
                f"the package answers otherwise than the trained network: {json.dumps(parity)}; allowed is {limit:g}.",
                where=f"{use_case.name}.yaml: export.{key}",
                fix="Another export.opset may help; raise the limit only if you know why.",
            )
    ctx.log.info("parity on %d rows: max difference %.2g", parity["rows"], parity["max_difference"])
    draft = ctx.draft()
    write_json(draft.path / "parity.json", parity)
    return ctx.publish(draft, EvaluationRef, parity)


def outputs_of(package: Package, inputs: np.ndarray) -> np.ndarray:
    """The first output [N, ...] of a package for stored rows [N, ...]."""
    name = package.spec.outputs[0].name
    return np.concatenate(
        [package.run(np.array(inputs[start : start + _BATCH]))[name] for start in range(0, len(inputs), _BATCH)]
    )


def _example_difference(package: Package) -> float:
    """How far the answer to the package's example, run as a request would be, is from the expected one."""
    example = package.example()
    return _difference(package.predict(example[0]), example[1]) if example is not None else 0.0


def _difference(answer: Any, expected: Any) -> float:
    """The largest difference of two numbers at the same place of two JSON values; infinite if they differ otherwise."""
    if isinstance(answer, float) and isinstance(expected, float):
        return abs(answer - expected)
    if isinstance(answer, dict) and isinstance(expected, dict) and answer.keys() == expected.keys():
        return max((_difference(answer[key], expected[key]) for key in answer), default=0.0)
    return 0.0 if answer == expected else math.inf
