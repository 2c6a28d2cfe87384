"""Stage train: train the network; later stages add to the MLflow run it creates."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lepton_tasks.core import catalogue
from lepton_tasks.core.artifacts import (
    CheckpointRef,
    DatasetRef,
    EvaluationRef,
    Fact,
    PreprocessorRef,
    QualityReportRef,
)
from lepton_tasks.core.context import Progress, RunContext
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.settings import apply_overrides
from lepton_tasks.core.use_case import UseCase, parse_use_case
from lepton_tasks.data.cluster.client import reports_of
from lepton_tasks.stages.preload import preloading
from lepton_tasks.stages.register import git_commit
from lepton_tasks.stages.tune import tuned_values
from lepton_tasks.tracking.inputs import DataInput
from lepton_tasks.training.checkpoint import HISTORY_FILE, write_checkpoint, write_history
from lepton_tasks.training.curves import plot_curves, plot_rates, told
from lepton_tasks.training.energy import energies
from lepton_tasks.training.job import JOB_FILE, Job
from lepton_tasks.training.launch import training, wait
from lepton_tasks.training.node import called

if TYPE_CHECKING:
    from lepton_tasks.training.record import TrainingRecord


_NAME = re.compile(r"[\w\-. :/]+")
"""Characters that MLflow allows in parameter names."""


def train(
    use_case: UseCase,
    ctx: RunContext,
    *,
    features: DatasetRef,
    preprocessor: PreprocessorRef,
    raw: DatasetRef,
    raw_quality: QualityReportRef,
    cleaned: DatasetRef,
    cleaned_quality: QualityReportRef,
    features_quality: QualityReportRef,
    tuned: EvaluationRef | None = None,
) -> CheckpointRef:
    """Train the network, with the values found by `tune` if it ran; keep the epoch chosen by `train.keep`.

    A killed training resumes from its last state, in the same MLflow run.

    Raises:
        UnavailableError: MLflow does not answer at the start or the end; in the latter case the weights are kept, and
            the next attempt only logs the missing data.
        LeptonError: the training failed.
    """
    if tuned is not None:
        values = tuned_values(ctx, tuned)
        ctx.log.info("tuned: %s", json.dumps(values))
        use_case = parse_use_case(apply_overrides(use_case.model_dump(mode="json"), values), where=use_case.name)
    job = Job.of(
        use_case,
        run_id=ctx.run_id,
        features=ctx.open(features),
        workdir=_workdir(ctx),
        preprocessor=ctx.read_json(preprocessor, "preprocessor.json"),
        seed=ctx.seed,
        machines=ctx.environment.training,
    )
    nodes = called(ctx.root, job.file, ctx.run_id) if job.machines.calls_nodes else contextlib.nullcontext()
    with nodes as call, training(job, call=call) as process, _recording(use_case, ctx, raw, job) as record:
        record.inputs([DataInput.of(use_case, features, split) for split in ("train", "validation")])
        record.files(_use_case_file(use_case, job.workdir))
        for report in (raw_quality, cleaned_quality, features_quality):
            record.files(ctx.open(report) / "docs", f"quality/{report.stage.removeprefix('validate_')}")
        record.files(ctx.open(cleaned) / "report.json", "cleaning")
        if (report_of_fit := ctx.open(preprocessor) / "report.json").exists():  # tables only
            record.files(report_of_fit, "fitted_steps")
        for artifact in (raw, cleaned, preprocessor, features):
            for page in reports_of(ctx, artifact):
                record.files(page, f"dask/{artifact.stage}")
        with preloading(ctx.more_stages):
            outcome = wait(job, process, lambda row: _epoch_ended(row, job, ctx, record))
        _log_curves(job, outcome, record)
    draft = ctx.draft()
    write_checkpoint(draft.path, job, outcome)
    ids = {"mlflow_run_id": record.run_id, "mlflow_experiment_id": record.experiment_id}
    ref = ctx.publish(draft, CheckpointRef, _facts(job, outcome) | ids)
    shutil.rmtree(job.workdir)
    return ref


def _log_curves(job: Job, outcome: Mapping[str, Any], record: TrainingRecord) -> None:
    """Log learning curves, history and layer summary to the MLflow run."""
    history = job.rows()
    record.files(plot_curves(job.workdir / "curves.png", history, outcome["best_epoch"]), "plots")
    rates = json.loads(job.rates.read_text())
    record.files(plot_rates(job.workdir / "learning_rate.png", rates), "plots")
    record.files(write_history(job.workdir / HISTORY_FILE, history), "plots")
    record.files(job.summary)


def _facts(job: Job, outcome: Mapping[str, Any]) -> dict[str, Fact]:
    """Facts of a finished training, with the validation metrics of the kept epoch."""
    best = job.rows()[outcome["best_epoch"]]
    return {
        "epochs": outcome["epochs"],
        "best_epoch": outcome["best_epoch"],
        "parameters": outcome["parameters"],
        "seconds": round(outcome["seconds"], 3),
        **energies(outcome),
        **{name: value for name, value in best.items() if name.startswith("validation_")},
        "metric": catalogue.LEARNING_TASKS.load(job.task.name).metric,
    }


@contextlib.contextmanager
def _recording(use_case: UseCase, ctx: RunContext, raw: DatasetRef, job: Job) -> Iterator[TrainingRecord]:
    """The MLflow run of the training: ``FINISHED`` only if the block succeeds and everything was logged."""
    # Imported while the training process imports Lightning: seconds each.
    from lepton_tasks.tracking.mlflow import Tracker
    from lepton_tasks.training.record import TrainingRecord

    tracker = Tracker(ctx.environment.tracking_url)
    record = TrainingRecord(tracker, job.workdir / "mlflow.json", ctx.log)
    commit = git_commit(project_root())
    tags = {
        "lepton.run_id": ctx.run_id,
        "lepton.use_case": use_case.name,
        "lepton.data_digest": raw.digest,
        "lepton.git_commit": commit,
        # Description and source on MLflow's page.
        "mlflow.note.content": f"**{use_case.title or use_case.name}**\n\n{use_case.description}".strip(),
        "mlflow.source.name": f"{use_case.name}.yaml",
        "mlflow.source.git.commit": commit,
    }
    record.start(use_case.name, ctx.run_id, tags=tags, params=dict(_flat(use_case.model_dump(mode="json"))))
    try:
        with tracker.system_metrics(record.run_id):
            yield record
        record.finish()
    except BaseException:
        record.fail()
        raise


def _workdir(ctx: RunContext) -> Path:
    """Work folder of the training; a forced run first removes the files of an earlier run."""
    folder = ctx.workdir
    job_file = folder / JOB_FILE
    if ctx.force and job_file.exists() and json.loads(job_file.read_text())["run_id"] != ctx.run_id:
        shutil.rmtree(folder)
    return ctx.workdir


def _epoch_ended(row: Mapping[str, Any], job: Job, ctx: RunContext, record: TrainingRecord) -> None:
    done, epochs = row["epoch"] + 1, job.train.epochs
    ctx.on_progress(Progress(ctx.stage, done, epochs, "epochs", row["seconds"], note=told(row)))
    record.epoch(row)
    if (plot := job.epoch_plot(row["epoch"])).exists():
        record.files(plot, "plots/epochs")


def _use_case_file(use_case: UseCase, folder: Path) -> Path:
    path = folder / "use_case.yaml"
    path.write_text(yaml.safe_dump(use_case.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return path


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a JSON tree: ``{"train": {"epochs": 3}}`` -> ``train.epochs: 3``."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        if isinstance(value, dict) and not all(map(_NAME.fullmatch, value)):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        elif isinstance(value, dict | list) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
