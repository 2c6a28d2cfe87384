"""Stage evaluate: metrics and plots on held-out rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, PreprocessorRef
from lepton_tasks.core.components import codec_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages import replay
from lepton_tasks.tracking.inputs import DataInput

_PROFILE_ROWS = (("train", 1_536), ("validation", 512))
"""Splits and maximum number of rows for the profile of requests."""


def evaluate(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
    splits: DatasetRef,
) -> EvaluationRef:
    """Compute test and validation metrics and those of a trivial baseline; write outputs and plots.

    The test split is also predicted as in serving: rows as requests, decoded by the codec. Monitors compare served
    requests with a profile of the other splits' requests. Metrics are logged to the checkpoint's MLflow run, if any.
    """
    from lepton_tasks.data.requests import requests_of
    from lepton_tasks.models.inference import predict
    from lepton_tasks.quality.served import profile_of_requests
    from lepton_tasks.training.checkpoint import read_checkpoint

    trained = read_checkpoint(ctx.open(checkpoint))
    task, data = trained.task, ctx.open(features)
    metrics: dict[str, Any] = {}
    for split in ("validation", "test"):  # test last: its arrays are plotted below
        rows = task.evaluation_rows(data, split)
        outputs = predict(trained.evaluable, rows.inputs, task.outputs)
        metrics[split] = task.metrics(outputs, rows.targets)
    metrics["baseline"] = task.baseline(rows)
    metrics["details"] = task.details(outputs, rows)
    fitted = ctx.read_json(preprocessor, "preprocessor.json")["fitted"]
    stored = functools.partial(requests_of, use_case, ctx, splits=splits, features=data, fitted=fitted)
    own, codec = task.requests(rows), codec_of(use_case, fitted, task)
    payloads = stored(limit=replay.MAX_REQUESTS) if own is None else own
    samples = _decode(codec, payloads, where=f"{use_case.name}.yaml: clean")
    # A fitted vocabulary covers the whole training split; its coverage of the validation split is that of requests.
    # If requests are not stored rows, there is nothing to compare them with.
    profile_rows = _PROFILE_ROWS if own is None else ()
    profile_requests = (
        request for name, limit in profile_rows for request in stored(split=name, limit=limit, spread=True)
    )
    draft = ctx.draft()
    write_json(draft.path / replay.PROFILE_FILE, profile_of_requests(codec, profile_requests, ctx))
    write_json(draft.path / "metrics.json", metrics)
    replay.write_outputs(draft.path / replay.OUTPUTS_FILE, outputs)
    replay.write_outputs(draft.path / replay.SERVED_FILE, predict(trained.deployable, samples, task.outputs))
    replay.write_requests(draft.path, payloads)
    plots = task.plots(draft.path, rows, outputs, worst=use_case.evaluate.worst)
    plots += task.network_plots(draft.path, trained.network, rows)
    flat = {f"{split}_{name}": metrics[split][name] for split in ("test", "baseline") for name in metrics[split]}
    run_id = checkpoint.facts.get("mlflow_run_id")
    if run_id is not None:
        test_data = DataInput.of(use_case, features, "test")
        _log(ctx, str(run_id), flat, draft.path / "metrics.json", plots, test_data=test_data)
    ctx.log.info("test: %s", json.dumps({name: round(value, 4) for name, value in flat.items()}))
    return ctx.publish(draft, EvaluationRef, {**flat, "metric": task.metric, "mlflow_run_id": run_id})


def _log(
    ctx: RunContext, run_id: str, figures: dict[str, float], file: Path, plots: Sequence[Path], *, test_data: DataInput
) -> None:
    """Log metrics, plots and the data set to the MLflow run."""
    from lepton_tasks.tracking.mlflow import Tracker

    tracker = Tracker(ctx.environment.tracking_url)
    tracker.inputs(run_id, [test_data])
    tracker.metrics(run_id, figures)
    tracker.files(run_id, file, at="evaluation")
    for path in plots:
        tracker.files(run_id, path, at="plots")


def _decode(codec: Codec, payloads: Sequence[bytes], *, where: str) -> np.ndarray:
    """Decode the requests; raises `DataError` for one that a server would refuse."""
    try:
        return replay.decoded(codec, payloads)
    except DataError as error:
        raise DataError(
            f"a server would refuse a row of the test split: {error.what}",
            where=where,
            fix="Reject such rows in `clean`, e.g. with `empty_text` or `text_length`, to keep them out of training.",
        ) from error
