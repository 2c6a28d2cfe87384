"""Stage compress: replace the graph by a smaller or faster one if quality holds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.components import learning_task_of
from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import LearningTask, Rows
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.package import (
    CARD_FILE,
    COMPRESSION_FILE,
    EXPECTED_FILE,
    ONNX_FILE,
    SPEC_FILE,
    Package,
    copy_package,
    load_package,
    seal,
)
from lepton_tasks.stages import replay
from lepton_tasks.stages.candidates import (
    EXPORTED,
    Candidate,
    EvaluationSet,
    build,
    choose,
    measure_latency,
    measure_quality,
)
from lepton_tasks.stages.distillation import student_trainer

_TIMED_ROWS = 32  # rows for the latency measurement


def compress(
    use_case: UseCase,
    ctx: RunContext,
    *,
    exported: ModelPackageRef,
    checkpoint: CheckpointRef,
    evaluation: EvaluationRef,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
    splits: DatasetRef,
) -> ModelPackageRef:
    """Try smaller graphs and package the best one within the limits, or keep the exported one.

    Graphs are chosen on the validation split; their metrics on the test split are reported separately.
    """
    package = load_package(ctx.open(exported))
    fitted = ctx.read_json(preprocessor, "preprocessor.json")["fitted"]
    task = learning_task_of(use_case, fitted, package.spec.labels)
    metric = use_case.gate.metric or task.metric
    graph = package.folder / ONNX_FILE
    baseline = Candidate(EXPORTED, package=package, figures={"bytes": graph.stat().st_size})
    with tempfile.TemporaryDirectory() as folder:
        if task.replayable:
            requests = _Requests(use_case, ctx, splits, ctx.open(features), fitted)
            payloads = {
                "validation": requests.of("validation", _settings(use_case).rows),
                "test": replay.read_requests(ctx.open(evaluation))[: _settings(use_case).rows],
            }
            evaluation_sets = {
                split: _evaluation_set(task, package, requests.features, split, payloads[split]) for split in payloads
            }

            def samples(count: int) -> np.ndarray:
                return replay.decoded(package.codec, requests.of("train", count, spread=True))

            teach = student_trainer(
                use_case, ctx, checkpoint=checkpoint, features=features, preprocessor=preprocessor, samples=samples
            )
            model = CompressionInput(graph, samples, teach)
            candidates = _measured(use_case, ctx, baseline, model, task, metric, evaluation_sets, Path(folder))
            best = choose(candidates, _settings(use_case), metric)
        else:
            candidates, best = [baseline], baseline
            baseline.reason = "nothing was tried: the answers to requests cannot be evaluated"
        for candidate in candidates:
            ctx.log.info("%s: %s", candidate.name, "served" if candidate is best else candidate.reason or "not taken")
        return _publish(ctx, candidates, best, metric, str(evaluation.facts["mlflow_run_id"]))


def _settings(use_case: UseCase) -> Compress:
    if use_case.compress is None:
        where = f"{use_case.name}.yaml: compress"
        raise ConfigError("this use case has no section `compress`.", where=where, fix="Add `compress: {}`.")
    return use_case.compress


class _Requests:
    """Rows as requests of clients."""

    def __init__(
        self, use_case: UseCase, ctx: RunContext, splits: DatasetRef, features: Path, fitted: dict[str, Any]
    ) -> None:
        self.use_case, self.ctx, self.splits, self.features, self.fitted = use_case, ctx, splits, features, fitted

    def of(self, split: str, limit: int, *, spread: bool = False) -> list[bytes]:
        from lepton_tasks.data.requests import requests_of

        return requests_of(
            self.use_case,
            self.ctx,
            splits=self.splits,
            features=self.features,
            fitted=self.fitted,
            limit=limit,
            split=split,
            spread=spread,
        )


def _evaluation_set(
    task: LearningTask, package: Package, features: Path, split: str, payloads: list[bytes]
) -> EvaluationSet:
    rows, count = task.evaluation_rows(features, split), len(payloads)
    return EvaluationSet(
        payloads, Rows(rows.inputs[:count], rows.targets[:count]), replay.outputs_of(package, payloads)
    )


def _measured(
    use_case: UseCase,
    ctx: RunContext,
    baseline: Candidate,
    model: CompressionInput,
    task: LearningTask,
    metric: str,
    evaluation_sets: dict[str, EvaluationSet],
    folder: Path,
) -> list[Candidate]:
    """Build and measure all candidates; the exported graph is the first."""
    package, specs = baseline.loaded, _settings(use_case).candidates
    measure_quality(baseline, task, metric, evaluation_sets)
    candidates, tick = [baseline], ctx.meter(len(specs), "candidates")
    for index, spec in enumerate(specs):
        candidate = build(spec, model, package, folder / f"{index}.onnx")
        measure_quality(candidate, task, metric, evaluation_sets)
        candidates.append(candidate)
        tick(index + 1)
    measure_latency(candidates, replay.decoded(package.codec, evaluation_sets["validation"].payloads[:_TIMED_ROWS]))
    return candidates


def _publish(
    ctx: RunContext, candidates: Sequence[Candidate], best: Candidate, metric: str, run_id: str
) -> ModelPackageRef:
    """Publish the package with the chosen graph, its answer to the example and the comparison; log that to MLflow."""
    from lepton_tasks.tracking.mlflow import Tracker
    from lepton_tasks.training.compress.report import comparison_plot, comparison_table

    baseline, draft = candidates[0], ctx.draft()
    copy_package(baseline.loaded.folder, draft.path)
    rows = [candidate.report() for candidate in candidates]
    if best.path is not None:  # not the exported graph
        shutil.copyfile(best.path, draft.path / ONNX_FILE)
        spec = baseline.loaded.spec.model_copy(
            update={
                "compression": best.spec,
                "metrics": best.figures["test_metrics"],
                "validation": best.figures["validation_metrics"],
            }
        )
        write_json(draft.path / SPEC_FILE, spec.model_dump(mode="json"))
        if (example := baseline.loaded.example()) is not None:
            write_json(draft.path / EXPECTED_FILE, best.loaded.predict(example[0]))
    report = {"chosen": best.name, "metric": metric, "candidates": rows}
    write_json(draft.path / COMPRESSION_FILE, report)
    table = comparison_table(rows, best.name, metric)
    card = draft.path / CARD_FILE
    card.write_text(f"{card.read_text(encoding='utf-8')}\n## Compression\n\n{table}", encoding="utf-8")
    seal(draft.path)
    facts = _facts(best, baseline, metric)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "compression.md").write_text(table, encoding="utf-8")
        write_json(Path(folder) / COMPRESSION_FILE, report)
        if "latency_ms" in baseline.figures:
            comparison_plot(Path(folder) / "compression.png", rows, best.name, metric)
        tracker = Tracker(ctx.environment.tracking_url)
        try:
            tracker.files(run_id, Path(folder), at="compression")
            tracker.metrics(run_id, {key: value for key, value in facts.items() if isinstance(value, float)})
        except BaseException:
            draft.discard()
            raise
    return ctx.publish(draft, ModelPackageRef, facts)


def _facts(best: Candidate, baseline: Candidate, metric: str) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {"chosen": best.name, "metric": metric, "onnx_bytes": best.figures["bytes"]}
    facts["size_ratio"] = best.figures["bytes"] / baseline.figures["bytes"]
    if "latency_ms" in best.figures:
        facts["latency_ratio"] = best.figures["latency_ms"] / baseline.figures["latency_ms"]
        facts |= {f"compressed_{split}_drop": best.figures[f"{split}_drop"] for split in ("validation", "test")}
    return facts
