"""Figures and pictures of the trained network on rows it has not learned from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, PreprocessorRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase


def evaluate(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
) -> EvaluationRef:
    """Metrics of the test and the validation split beside those of a trivial predictor, outputs, and plots."""
    from lepton_tasks.models.inference import predict
    from lepton_tasks.tracking.mlflow import Tracker
    from lepton_tasks.training.batches import open_split
    from lepton_tasks.training.checkpoint import read_checkpoint

    trained = read_checkpoint(ctx.open(checkpoint))
    data = ctx.open(features)
    metrics: dict[str, Any] = {}
    for split in ("validation", "test"):  # test last: its arrays are drawn below
        inputs, targets = open_split(data, split)
        outputs = predict(trained.deployable, inputs)
        metrics[split] = trained.task.metrics(outputs, targets, trained.labels)
    metrics["baseline"] = trained.task.baseline(targets, trained.labels)
    metrics["by_label"] = trained.task.details(outputs, targets, trained.labels)
    draft = ctx.draft()
    write_json(draft.path / "metrics.json", metrics)
    np.save(draft.path / "outputs.npy", outputs)
    plots = trained.task.plots(draft.path, inputs, outputs, targets, trained.labels, worst=use_case.evaluate.worst)
    flat = {f"{split}_{name}": metrics[split][name] for split in ("test", "baseline") for name in metrics[split]}
    run_id = str(checkpoint.facts["mlflow_run_id"])
    tracker = Tracker(ctx.environment.tracking_url)
    tracker.metrics(run_id, flat)
    tracker.files(run_id, draft.path / "metrics.json", at="evaluation")
    for path in plots:
        tracker.files(run_id, path, at="plots")
    ctx.log.info("test: %s", json.dumps({name: round(value, 4) for name, value in flat.items()}))
    return ctx.publish(draft, EvaluationRef, {**flat, "mlflow_run_id": run_id})
