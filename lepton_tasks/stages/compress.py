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
from lepton_tasks.stages.candidates import EXPORTED, Candidate, Exam, build, choose, clock, judge
from lepton_tasks.stages.pupils import teaching

_TIMED = 32  # rows that latencies are measured with


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

    Graphs are chosen on the validation split; what they are worth on the test split is told apart.
    """
    package = load_package(ctx.open(exported))
    fitted = ctx.read_json(preprocessor, "preprocessor.json")["fitted"]
    task = learning_task_of(use_case, fitted, package.spec.labels)
    metric = use_case.gate.metric or task.metric
    graph = package.folder / ONNX_FILE
    own = Candidate(EXPORTED, package=package, figures={"bytes": graph.stat().st_size})
    with tempfile.TemporaryDirectory() as folder:
        if task.replayable:
            rows = _Requests(use_case, ctx, splits, ctx.open(features), fitted)
            asked = {
                "validation": rows.of("validation", _settings(use_case).rows),
                "test": replay.read_requests(ctx.open(evaluation))[: _settings(use_case).rows],
            }
            exams = {split: _exam(task, package, rows.features, split, asked[split]) for split in asked}

            def samples(count: int) -> np.ndarray:
                return replay.decoded(package.codec, rows.of("train", count, spread=True))

            teach = teaching(
                use_case, ctx, checkpoint=checkpoint, features=features, preprocessor=preprocessor, samples=samples
            )
            model = CompressionInput(graph, samples, teach)
            candidates = _tried(use_case, ctx, own, model, task, metric, exams, Path(folder))
            best = choose(candidates, _settings(use_case), metric)
        else:
            candidates, best = [own], own
            own.reason = "nothing was tried: the answers to requests cannot be evaluated"
        for candidate in candidates:
            ctx.log.info("%s: %s", candidate.name, "served" if candidate is best else candidate.reason or "not taken")
        return _published(ctx, candidates, best, metric, str(evaluation.facts["mlflow_run_id"]))


def _settings(use_case: UseCase) -> Compress:
    if use_case.compress is None:
        where = f"{use_case.name}.yaml: compress"
        raise ConfigError("this use case has no section `compress`.", where=where, fix="Add `compress: {}`.")
    return use_case.compress


class _Requests:
    """Rows as clients would send them."""

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


def _exam(task: LearningTask, package: Package, features: Path, split: str, payloads: list[bytes]) -> Exam:
    rows, count = task.evaluation_rows(features, split), len(payloads)
    return Exam(payloads, Rows(rows.inputs[:count], rows.targets[:count]), replay.outputs_of(package, payloads))


def _tried(
    use_case: UseCase,
    ctx: RunContext,
    own: Candidate,
    model: CompressionInput,
    task: LearningTask,
    metric: str,
    exams: dict[str, Exam],
    folder: Path,
) -> list[Candidate]:
    """The exported graph and all candidates, measured."""
    package, specs = own.opened, _settings(use_case).candidates
    judge(own, task, metric, exams)
    candidates, tick = [own], ctx.meter(len(specs), "candidates")
    for index, spec in enumerate(specs):
        candidate = build(spec, model, package, folder / f"{index}.onnx")
        judge(candidate, task, metric, exams)
        candidates.append(candidate)
        tick(index + 1)
    clock(candidates, replay.decoded(package.codec, exams["validation"].payloads[:_TIMED]))
    return candidates


def _published(
    ctx: RunContext, candidates: Sequence[Candidate], best: Candidate, metric: str, run_id: str
) -> ModelPackageRef:
    """The package with the chosen graph, its own answer to the example, and the table; the table is in MLflow, too."""
    from lepton_tasks.tracking.mlflow import Tracker
    from lepton_tasks.training.compress.report import comparison_plot, comparison_table

    own, draft = candidates[0], ctx.draft()
    copy_package(own.opened.folder, draft.path)
    rows = [candidate.report() for candidate in candidates]
    if best.path is not None:  # it is not the exported one
        shutil.copyfile(best.path, draft.path / ONNX_FILE)
        spec = own.opened.spec.model_copy(
            update={
                "compression": best.spec,
                "metrics": best.figures["test_metrics"],
                "validation": best.figures["validation_metrics"],
            }
        )
        write_json(draft.path / SPEC_FILE, spec.model_dump(mode="json"))
        if (example := own.opened.example()) is not None:
            write_json(draft.path / EXPECTED_FILE, best.opened.predict(example[0]))
    report = {"chosen": best.name, "metric": metric, "candidates": rows}
    write_json(draft.path / COMPRESSION_FILE, report)
    table = comparison_table(rows, best.name, metric)
    card = draft.path / CARD_FILE
    card.write_text(f"{card.read_text(encoding='utf-8')}\n## Compression\n\n{table}", encoding="utf-8")
    seal(draft.path)
    facts = _facts(best, own, metric)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "compression.md").write_text(table, encoding="utf-8")
        write_json(Path(folder) / COMPRESSION_FILE, report)
        if "latency_ms" in own.figures:
            comparison_plot(Path(folder) / "compression.png", rows, best.name, metric)
        tracker = Tracker(ctx.environment.tracking_url)
        try:
            tracker.files(run_id, Path(folder), at="compression")
            tracker.metrics(run_id, {key: value for key, value in facts.items() if isinstance(value, float)})
        except BaseException:
            draft.discard()
            raise
    return ctx.publish(draft, ModelPackageRef, facts)


def _facts(best: Candidate, own: Candidate, metric: str) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {"chosen": best.name, "metric": metric, "onnx_bytes": best.figures["bytes"]}
    facts["size_ratio"] = best.figures["bytes"] / own.figures["bytes"]
    if "latency_ms" in best.figures:
        facts["latency_ratio"] = best.figures["latency_ms"] / own.figures["latency_ms"]
        facts |= {f"compressed_{split}_drop": best.figures[f"{split}_drop"] for split in ("validation", "test")}
    return facts
