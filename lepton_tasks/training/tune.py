"""Hyperparameter trials: each is a separate training, reported to a persistent study."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tasks.core import catalogue
from lepton_tasks.core.errors import ConfigError, LeptonError, StageError
from lepton_tasks.core.metrics import direction
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.train_settings import Choices, Range, Tune
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import training, wait

if TYPE_CHECKING:
    import optuna

STUDY = "tuning"
STUDY_FILE = "study.log"
_OWN = "own"  # marks the trial with the use case's own values


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of all trials; picklable, for workers on any machine that shares the folder.

    Attributes:
        folder: Folder of study and trials.
        tune: The use case's section.
        jobs: Template of the trials' jobs.
        seed: Seed of the sampler.
        metric: Validation metric.
        threads: Threads per trial.
        until: Deadline to start trials, in seconds since 1970; None for no deadline.
        tracking_url: URL of the MLflow server.
        experiment: MLflow experiment.
        parent: Parent run of the trials' runs.
    """

    folder: Path
    tune: Tune
    jobs: JobTemplate
    seed: int
    metric: str
    threads: int
    until: float | None
    tracking_url: str
    experiment: str
    parent: str

    @property
    def sign(self) -> int:
        """Factor that makes larger values better: 1 or -1."""
        return direction(self.metric)

    def study(self, number: int = 0) -> optuna.Study:
        """The study, new or resumed; it maximises.

        Args:
            number: Trial number in this attempt. Seeds the trial's own sampler, since equal seeds would draw equal
                values.
        """
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.folder / STUDY_FILE)))
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.tune.pruner == "median":
            pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
        elif self.tune.pruner == "hyperband":
            pruner = optuna.pruners.HyperbandPruner(max_resource=self.jobs.job.train.epochs)
        study = optuna.create_study(
            study_name=STUDY, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
        )
        begun = len(study.get_trials(deepcopy=False))  # earlier attempts used the same numbers
        seed = int(np.random.SeedSequence([self.seed, begun, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if self.tune.sampler == "tpe":
            # Trials run in parallel: a running one counts as bad, so that others differ.
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
        return study


@dataclasses.dataclass(frozen=True)
class JobTemplate:
    """A job into which a trial's values are inserted.

    Attributes:
        job: Job with the use case's own values.
        own: The use case's own values, by key; the first trial.
    """

    job: Job
    own: Mapping[str, Any]

    def with_values(self, values: Mapping[str, Any], workdir: Path) -> Job:
        """The job with these values, by dotted key of the use case."""
        from lepton_tasks.core.settings import apply_overrides

        tree = self.job.model_dump(mode="json")
        sections = {key: tree[key] for key in ("task", "model", "train")}
        return Job.model_validate({**tree, **apply_overrides(sections, values), "workdir": workdir})


def check_metric(job: Job, metric: str) -> None:
    """Raise `ConfigError` if the training does not compute the metric per epoch.

    Metric names are known only after a validation, so a new network is validated once.
    """
    from lepton_tasks.models.inference import predict

    task = job.learning_task()
    network = catalogue.MODELS.build(job.model.name, job.model.params, where="model", **task.network_arguments())
    rows, validated, names, metrics = task.validation(network, job.features)
    known = metrics(predict(validated, rows.inputs, names), rows.targets)
    if metric not in known:
        raise ConfigError(
            f"trainings do not measure {metric!r} on the validation split.",
            where="tune.metric",
            fix=did_you_mean(metric, known),
        )


def prepare(study: optuna.Study, search: Search) -> int:
    """Clean up the study after a killed attempt; returns the number of trials left to run.

    The use case's own values are tried first, and again if that trial was killed.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if not any(_OWN in trial.user_attrs for trial in (*ended, *waiting)):
        own = {key: _category(value) for key, value in search.jobs.own.items()}
        study.enqueue_trial(own, user_attrs={_OWN: True})
    return max(0, search.tune.trials - len(ended))


def run_trial(search: Search, number: Sequence[int]) -> str | None:
    """Train with the study's suggested values and report the result.

    Args:
        search: The search.
        number: List of one: number of the trial in this attempt.

    Returns:
        A summary line; None after the deadline.
    """
    import optuna

    if search.until is not None and time.time() > search.until:
        return None
    study = search.study(number[0])
    trial = study.ask()
    values = {key: _suggested(trial, key, space) for key, space in search.tune.space.items()}
    try:
        value = _trained(search, trial, values)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return f"trial {trial.number} ended early: {_summary(values)}"
    except LeptonError as error:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if error.retryable:
            raise
        return f"trial {trial.number} failed: {error} ({_summary(values)})"
    study.tell(trial, value)
    return f"trial {trial.number}: {search.metric} {search.sign * value:.4f} ({_summary(values)})"


def _trained(search: Search, trial: optuna.Trial, values: Mapping[str, Any]) -> float:
    """Validation metric of the selected epoch, times the sign.

    Raises:
        TrialPruned: the pruner stopped it.
    """
    import optuna

    from lepton_tasks.tracking.mlflow import Tracker

    job = search.jobs.with_values(values, search.folder / f"trial-{trial.number}")
    job.workdir.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(search.tracking_url)
    tags = {"mlflow.parentRunId": search.parent, "lepton.trial": str(trial.number)}
    run_id, _ = tracker.start(search.experiment, f"trial {trial.number}", tags)
    status = "FAILED"
    try:
        tracker.params(run_id, values)
        course: list[float] = []

        def epoch_ended(row: dict[str, Any]) -> None:
            figures = {key: value for key, value in row.items() if key not in ("epoch", "seconds")}
            tracker.metrics(run_id, figures, row["epoch"])
            value = search.sign * row[f"validation_{search.metric}"]
            course.append(value)
            trial.report(value, row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        with training(job, threads=search.threads) as process:
            outcome = wait(job, process, epoch_ended)
        status = "FINISHED"
        return course[int(outcome["best_epoch"])]
    except optuna.TrialPruned:
        status = "KILLED"
        raise
    finally:
        tracker.end(run_id, status)
        shutil.rmtree(job.workdir, ignore_errors=True)


def _suggested(trial: optuna.Trial, key: str, space: Range | Choices) -> Any:
    if isinstance(space, Choices):
        return _choice(space, trial.suggest_categorical(key, [_category(choice) for choice in space.choices]))
    if space.whole:
        return trial.suggest_int(key, int(space.low), int(space.high), step=int(space.step or 1), log=space.log)
    return trial.suggest_float(key, space.low, space.high, step=space.step, log=space.log)


def _category(value: Any) -> Any:
    """A value as an Optuna category: plain, or JSON."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _choice(space: Choices, category: Any) -> Any:
    """The choice for a category."""
    return next(choice for choice in space.choices if _category(choice) == category)


def _summary(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def winner(study: optuna.Study, search: Search) -> dict[str, Any]:
    """The best trial's values and a summary of the others.

    Raises:
        StageError: no trial was completed.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise StageError("no trial was completed.", where="tune", fix="See the log; the ranges may be too wide.")
    best = study.best_trial
    values = {
        key: _choice(space, best.params[key]) if isinstance(space, Choices) else best.params[key]
        for key, space in search.tune.space.items()
    }
    own = next((trial for trial in complete if _OWN in trial.user_attrs), None)
    return {
        "values": values,
        "metric": search.metric,
        "value": search.sign * (best.value or 0.0),
        "own_values": dict(search.jobs.own),
        "own_value": None if own is None else search.sign * (own.value or 0.0),
        "trial": best.number,
        "trials": len(trials),
        "complete": len(complete),
        "pruned": sum(trial.state is TrialState.PRUNED for trial in trials),
        "failed": sum(trial.state is TrialState.FAIL for trial in trials),
    }


def plots(study: optuna.Study, folder: Path, metric: str) -> list[Path]:
    """Plots of the best value's history, key importances and parallel coordinates, as PNG files."""
    import warnings

    from optuna.visualization import matplotlib as drawn

    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's plots are experimental
        for name, draw in (
            ("tuning_history", drawn.plot_optimization_history),
            ("tuning_importance", drawn.plot_param_importances),
            ("tuning_parallel", drawn.plot_parallel_coordinate),
        ):
            try:
                axes = draw(study, target_name=metric) if name != "tuning_parallel" else draw(study)
            except (ValueError, RuntimeError):  # too few trials, or all alike
                continue
            path, figure = folder / f"{name}.png", axes.get_figure(root=True)
            if figure is not None:
                figure.set_size_inches(10, 4.5)
                figure.savefig(path, dpi=110, bbox_inches="tight")
                made.append(path)
    return made
