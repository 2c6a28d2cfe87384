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
_OWN = "own"  # attribute of the trial with the use case's own values


@dataclasses.dataclass(frozen=True)
class Search:
    """What every trial is told; picklable, so that a worker on any machine that sees the folder can run one.

    Attributes:
        folder: Of the study and the trials' work.
        tune: The use case's section.
        jobs: The job of each combination of values is made by `job_with`.
        seed: Of the sampler.
        metric: Of the validation split.
        threads: Of one trial.
        until: Seconds since 1970 after which no trial begins; None if trials alone count.
        tracking_url: MLflow.
        experiment: There.
        parent: The run that the trials' runs belong to.
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
        """What a value is multiplied by so that larger is better."""
        return direction(self.metric)

    def study(self, number: int = 0) -> optuna.Study:
        """The study, new or as an earlier attempt left it; its values are larger when better.

        Args:
            number: Of the trial in this attempt. Each has a sampler of its own, which would draw what the others draw
                if all had the same seed.
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
        begun = len(study.get_trials(deepcopy=False))  # an earlier attempt had the same numbers
        seed = int(np.random.SeedSequence([self.seed, begun, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if self.tune.sampler == "tpe":
            # Trials run side by side: one that is still being tried counts as a bad one, so that others differ.
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
        return study


@dataclasses.dataclass(frozen=True)
class JobTemplate:
    """A job, and where in it the values of a trial go.

    Attributes:
        job: Of the use case as it is.
        own: The values that the use case has itself, by key; the first trial.
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
    """Raise `ConfigError` if an epoch of the training does not measure the metric.

    Only metrics that were measured are known by name, so a new network answers the validation split once.
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
    """Clear what a killed attempt left in a study; returns how many trials are still to be run.

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
    """Ask the study for values, train with them, tell it how good they are.

    Args:
        search: The search.
        number: A list of one: which trial of this attempt it is.

    Returns:
        A line about it; None if time was up.
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
        return f"trial {trial.number} ended early: {_told(values)}"
    except LeptonError as error:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if error.retryable:
            raise
        return f"trial {trial.number} failed: {error} ({_told(values)})"
    study.tell(trial, value)
    return f"trial {trial.number}: {search.metric} {search.sign * value:.4f} ({_told(values)})"


def _trained(search: Search, trial: optuna.Trial, values: Mapping[str, Any]) -> float:
    """The validation figure of the epoch that a training keeps, times the sign.

    Raises:
        TrialPruned: it is not worth going on.
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
    """A value as Optuna's categories can be: plain, or JSON."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def _choice(space: Choices, category: Any) -> Any:
    """The choice that a category stands for."""
    return next(choice for choice in space.choices if _category(choice) == category)


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def winner(study: optuna.Study, search: Search) -> dict[str, Any]:
    """The best trial's values and what is worth knowing about the others.

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
    """The history of the best value, the importance of each key, and all trials side by side, as PNG files."""
    import warnings

    from optuna.visualization import matplotlib as drawn

    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its drawings experimental
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
