import contextlib
import dataclasses

import pytest
from optuna.trial import TrialState, create_trial
from tiny_training import job, use_case

from lepton_tasks.core.errors import ConfigError, StageError
from lepton_tasks.core.train_settings import Range
from lepton_tasks.training.tune import JobTemplate, Search, _suggested, check_metric, plots, prepare, run_trial, winner


@pytest.fixture
def search(tmp_path):
    case = use_case(
        tune={
            "space": {
                "train.batch_size": {"low": 8, "high": 64, "log": True},
                "train.schedule": {"choices": ["cosine", "step"]},
            },
            "trials": 5,
        }
    )
    template = JobTemplate(job(tmp_path), case.tune.own_values(case))
    return Search(tmp_path, case.tune, template, 0, "loss", 1, None, "http://127.0.0.1:9", "x", "parent")


def test_a_killed_search_counts_what_ended_and_gives_up_what_did_not(search):
    study = search.study()
    assert prepare(study, search) == 5
    first = study.ask()  # killed while it ran
    study.tell(study.ask({}), 0.5)
    again = search.study()
    assert prepare(again, search) == 4
    states = [trial.state for trial in again.get_trials() if trial.number == first.number]
    assert states == [TrialState.FAIL]
    assert prepare(again, search) == 4
    own = again.ask()  # what was killed had the use case's own values, without which there is nothing to compare with
    assert own.user_attrs == {"own": True}
    assert own.suggest_int("train.batch_size", 8, 64, log=True) == search.jobs.own["train.batch_size"]
    again.tell(own, -0.25)
    assert prepare(again, search) == 3
    assert again.get_trials(states=(TrialState.WAITING,)) == []


def test_values_go_into_the_job_and_the_best_is_the_smallest_loss(search, tmp_path):
    assert search.jobs.own == {"train.batch_size": 16, "train.schedule": "one_cycle"}
    made = search.jobs.with_values({"train.batch_size": 24, "train.schedule": "step"}, tmp_path / "t")
    assert (made.train.batch_size, made.train.schedule.name, made.workdir) == (24, "step", tmp_path / "t")
    study = search.study()
    for size, loss in ((8, 0.9), (32, 0.2), (64, 0.4)):
        study.enqueue_trial({"train.batch_size": size, "train.schedule": "step"})
        trial = study.ask()
        trial.suggest_int("train.batch_size", 8, 64, log=True)
        trial.suggest_categorical("train.schedule", ["cosine", "step"])
        study.tell(trial, search.sign * loss)
    study.add_trial(create_trial(value=-0.7, params={}, user_attrs={"own": True}))
    best = winner(study, search)
    assert best["own_value"] == 0.7
    assert best["values"] == {"train.batch_size": 32, "train.schedule": "step"}
    assert (best["value"], best["trial"], best["complete"]) == (0.2, 1, 4)
    assert {path.name for path in plots(study, tmp_path, "loss")} >= {"tuning_history.png", "tuning_parallel.png"}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_every_trial_tries_something_else_in_the_next_attempt_too(search, sampler):
    search = dataclasses.replace(search, tune=search.tune.model_copy(update={"sampler": sampler}))
    space = Range(low=0.0001, high=0.1, log=True)
    tried = []
    for number in (0, 1, 2, 0, 1):
        study = search.study(number)
        trial = study.ask()
        tried.append(_suggested(trial, "train.learning_rate", space))
        study.tell(trial, 0.5)
    assert len(set(tried)) == len(tried)


def test_a_trial_is_worth_what_the_kept_epoch_is(search, monkeypatch):
    class Tracker:
        def __init__(self, url):
            pass

        def start(self, *about):
            return "run", "1"

        def params(self, *about):
            pass

        metrics = end = params

    def wait(job, process, on_epoch):
        for epoch, loss in enumerate((0.5, 0.1, 0.3)):
            on_epoch({"epoch": epoch, "seconds": 1.0, "validation_loss": loss})
        return {"best_epoch": 2}  # the last, or that of the best accuracy

    monkeypatch.setattr("lepton_tasks.tracking.mlflow.Tracker", Tracker)
    monkeypatch.setattr("lepton_tasks.training.tune.training", lambda job, threads: contextlib.nullcontext())
    monkeypatch.setattr("lepton_tasks.training.tune.wait", wait)
    run_trial(search, [0])
    assert [trial.value for trial in search.study().get_trials()] == [-0.3]


def test_a_figure_of_zero_is_a_figure(search):
    study = search.study()
    for size, loss in ((8, 0.4), (32, 0.0)):
        study.enqueue_trial({"train.batch_size": size, "train.schedule": "step"})
        trial = study.ask()
        trial.suggest_int("train.batch_size", 8, 64, log=True)
        trial.suggest_categorical("train.schedule", ["cosine", "step"])
        study.tell(trial, search.sign * loss)
    assert winner(study, search)["values"]["train.batch_size"] == 32


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    check_metric(job(tmp_path), "loss")
    with pytest.raises(ConfigError, match=r"tune.metric: .* do not measure 'acuracy' .* Did you mean 'accuracy'\?"):
        check_metric(job(tmp_path), "acuracy")


def test_a_search_in_which_nothing_ended_is_an_error(search):
    with pytest.raises(StageError, match="no trial was completed"):
        winner(search.study(), search)
