"""Stage tune: hyperparameter search on the validation split."""

from __future__ import annotations

import csv
import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.artifacts import DatasetRef, EvaluationRef, PreprocessorRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.train_settings import Tune
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    import optuna

    from lepton_tasks.training.job import Job
    from lepton_tasks.training.tune import Search

TUNED_FILE = "tuned.json"
_OUTCOME = "outcome"


def tune(use_case: UseCase, ctx: RunContext, *, features: DatasetRef, preprocessor: PreprocessorRef) -> EvaluationRef:
    """Search hyperparameters; write the best values to ``tuned.json`` for `train`.

    The first trial uses the use case's own values, so the result is no worse on the validation split. A killed search
    resumes.

    Raises:
        ConfigError: a value is invalid, or the metric does not exist.
        UnavailableError: MLflow or the Dask cluster does not answer; completed trials are kept.
        StageError: no trial was completed.
    """
    from lepton_tasks.tracking.mlflow import Tracker
    from lepton_tasks.training import tune as trials
    from lepton_tasks.training.record import TrainingRecord

    settings, job = _settings(use_case), _job(use_case, ctx, features, preprocessor)
    trials.check_metric(job, settings.metric or job.learning_task().metric)
    record = TrainingRecord(Tracker(ctx.environment.tracking_url), ctx.workdir / "mlflow.json", ctx.log)
    space = {f"space.{key}": value.model_dump() for key, value in settings.space.items()}
    record.start(use_case.name, f"tuning {ctx.run_id}", tags={"lepton.run_id": ctx.run_id}, params=space)
    try:
        search = _search(use_case, ctx, job, record.run_id)
        study = search.study()
        _run_trials(search, ctx, remaining=trials.prepare(study, search))
        best = trials.winner(study, search)
        record.files(_write_outcome(study, search, best), "tuning")
        record.finish()  # uploads them from another thread, so they must exist until then
    except BaseException:
        record.fail()
        raise
    draft = ctx.draft()
    shutil.copytree(search.folder / _OUTCOME, draft.path, dirs_exist_ok=True)
    facts = {"trials": best["trials"], "pruned": best["pruned"], "metric": best["metric"]}
    named = {f"validation_{best['metric']}": best["value"], "own_value": best["own_value"]}
    ref = ctx.publish(draft, EvaluationRef, {**facts, **named, "mlflow_run_id": record.run_id})
    shutil.rmtree(ctx.workdir)
    return ref


@dataclasses.dataclass(frozen=True)
class _Trial:
    """One trial as a function of its number; picklable."""

    search: Search

    def __call__(self, number: list[int]) -> str | None:
        from lepton_tasks.training.tune import run_trial

        return run_trial(self.search, number)


def _run_trials(search: Search, ctx: RunContext, *, remaining: int) -> None:
    """Run and log the remaining trials, as far as time allows."""
    from lepton_tasks.data.cluster import map_chunks

    dask = ctx.environment.dask
    if dask.address is None:
        dask = dask.model_copy(update={"workers": search.tune.workers})
    environment = ctx.environment.model_copy(update={"dask": dask})
    # Progress of `map_chunks` would also count trials skipped for lack of time.
    trial_ctx = dataclasses.replace(ctx, environment=environment, on_progress=lambda progress: None)
    tick, done = ctx.meter(remaining, "trials"), 0
    for line in map_chunks(_Trial(search), [[i] for i in range(remaining)], trial_ctx, total=remaining, unit="trials"):
        if line is not None:
            done += 1
            ctx.log.info("%s", line)
            tick(done)
    if done < remaining:
        ctx.log.info("time is up after %d of %d trials (tune.minutes: %g)", done, remaining, search.tune.minutes or 0.0)


def _settings(use_case: UseCase) -> Tune:
    if use_case.tune is None:
        raise ConfigError(
            "this use case has no section `tune`.", where=f"{use_case.name}.yaml: tune", fix="Add `tune.space`."
        )
    return use_case.tune


def _job(use_case: UseCase, ctx: RunContext, features: DatasetRef, preprocessor: PreprocessorRef) -> Job:
    """The training job with the use case's own values and the epochs of a trial."""
    from lepton_tasks.training.job import Job

    epochs = _settings(use_case).epochs or use_case.train.epochs
    train = use_case.train.model_copy(update={"epochs": epochs})
    return Job.of(
        use_case.model_copy(update={"train": train}),
        run_id=ctx.run_id,
        features=ctx.open(features),
        workdir=ctx.workdir,
        preprocessor=ctx.read_json(preprocessor, "preprocessor.json"),
        seed=ctx.seed,
    )


def _search(use_case: UseCase, ctx: RunContext, job: Job, parent: str) -> Search:
    from lepton_tasks.training.launch import cores
    from lepton_tasks.training.tune import JobTemplate, Search

    settings = _settings(use_case)
    return Search(
        folder=ctx.workdir,
        tune=settings,
        jobs=JobTemplate(job, settings.own_values(use_case)),
        seed=ctx.seed,
        metric=settings.metric or job.learning_task().metric,
        threads=max(1, cores() // settings.workers),
        until=None if settings.minutes is None else time.time() + 60 * settings.minutes,
        tracking_url=ctx.environment.tracking_url,
        experiment=use_case.name,
        parent=parent,
    )


def _write_outcome(study: optuna.Study, search: Search, best: Mapping[str, Any]) -> Path:
    """Write best values, trials and plots; returns their folder."""
    from lepton_tasks.training import tune as trials

    folder = search.folder / _OUTCOME
    folder.mkdir(exist_ok=True)
    write_json(folder / TUNED_FILE, dict(best))
    _write_trials(study, folder / "trials.csv", search.sign)
    trials.plots(study, folder, search.metric)
    return folder


def _write_trials(study: optuna.Study, path: Path, sign: int) -> None:
    """All trials as CSV: number, state, value, seconds, parameters."""
    all_trials = study.get_trials(deepcopy=False)
    keys = sorted({key for trial in all_trials for key in trial.params})
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", "value", "seconds", *keys])
        for trial in all_trials:
            seconds = trial.duration.total_seconds() if trial.duration else ""
            value = "" if trial.value is None else sign * trial.value
            row = [trial.number, trial.state.name.lower(), value, seconds]
            writer.writerow([*row, *(trial.params.get(key, "") for key in keys)])


def tuned_values(ctx: RunContext, ref: EvaluationRef) -> dict[str, Any]:
    """Best values by dotted key of the use case."""
    values: dict[str, Any] = ctx.read_json(ref, TUNED_FILE)["values"]
    return values
