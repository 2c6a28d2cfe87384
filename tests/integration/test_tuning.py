"""The search for better values, on real trainings of seconds."""

import csv
import dataclasses
import json
import time

import pytest
from test_training_stage import Tracker, ctx, refs  # noqa: F401  # fixtures
from tiny_training import use_case

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.settings import apply_overrides
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.pipeline import stages_of
from lepton_tasks.stages.runner import run_stage
from lepton_tasks.training.checkpoint import read_checkpoint

SPACE = {
    "train.learning_rate": {"low": 1e-9, "high": 0.03, "log": True},
    "model.params.width": {"choices": [4, 8]},
}


class Recorder(Tracker):
    """A server that always answers, and what it was told."""

    runs = {}

    def start(self, experiment, run_name, tags, *, resume=None):
        self.runs[run_name] = {"tags": tags, "epochs": 0}
        return run_name, "1"

    def params(self, run_id, values):
        self.runs[run_id]["params"] = dict(values)

    def metrics(self, run_id, values, step):
        self.runs[run_id]["epochs"] += 1

    def files(self, run_id, path, at=None):
        time.sleep(0.3)  # long enough for what is sent to be moved away, if it were
        self.runs[run_id].setdefault("files", set()).update(p.name for p in path.rglob("*") if path.is_dir())

    def end(self, run_id, status):
        self.runs[run_id]["status"] = status


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("lepton_tasks.tracking.mlflow.Tracker", Recorder)
    monkeypatch.setattr(Recorder, "runs", {})
    return Recorder.runs


def case(**tune):
    return use_case(train={"epochs": 2, "learning_rate": 1e-8}, tune={"space": SPACE, "workers": 2, **tune})


def test_a_search_beats_bad_values_and_training_takes_what_it_found(ctx, refs, server):  # noqa: F811
    searched = case(trials=3, metric="loss")
    ref = run_stage("tune", searched, ctx, refs).ref
    found = json.loads((ctx.open(ref) / "tuned.json").read_text())
    assert found["own_values"] == {"train.learning_rate": 1e-8, "model.params.width": 4}
    assert (found["trials"], found["failed"]) == (3, 0)
    assert found["value"] < found["own_value"]
    assert found["values"]["train.learning_rate"] > 1e-8
    with (ctx.open(ref) / "trials.csv").open() as stream:
        assert [row["trial"] for row in csv.DictReader(stream)] == ["0", "1", "2"]
    parent = next(name for name in server if name.startswith("tuning"))
    trials = [run for name, run in server.items() if name.startswith("trial ")]
    assert [run["tags"]["mlflow.parentRunId"] for run in trials] == [parent] * 3
    assert server[parent]["files"] >= {"tuned.json", "trials.csv", "tuning_history.png"}
    assert server[parent]["status"] == "FINISHED"
    assert not list((ctx.root / "work" / "tune").glob("*"))

    trained = run_stage("train", searched, ctx, {**refs, "tuned": ref}).ref
    spec = read_checkpoint(ctx.open(trained)).spec
    assert spec["train"]["learning_rate"] == found["values"]["train.learning_rate"]
    assert spec["model"]["params"]["width"] == found["values"]["model.params.width"]


def test_trials_that_time_left_no_room_for_are_not_counted(ctx, refs, server, caplog):  # noqa: F811
    seen = []
    told = dataclasses.replace(ctx, on_progress=seen.append)
    searched = case(trials=40, metric="loss", minutes=0.02)  # less than the first two take
    with caplog.at_level("INFO"):
        ref = run_stage("tune", searched, told, refs).ref
    done = ref.facts["trials"]
    assert 0 < done < 40
    assert f"time is up after {done} of 40 trials (tune.minutes: 0.02)" in caplog.text
    assert [p for p in seen if p.unit == "trials" and p.done > done] == []


def test_an_unknown_metric_is_refused_before_anything_is_begun(ctx, refs, server):  # noqa: F811
    with pytest.raises(ConfigError, match=r"tune.metric: .*Known: .*accuracy"):
        run_stage("tune", case(trials=3, metric="bleu"), ctx, refs)
    assert server == {}


def test_the_stage_comes_before_training_only_where_it_is_asked_for():
    names = [stage.name for stage in stages_of(case())]
    assert names[names.index("tune") + 1] == "train"
    assert "tune" not in [stage.name for stage in stages_of(use_case())]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"data.split.train": {"low": 0.1, "high": 0.9}}, "'data.split.train' is not in `task`, `model` or `train`"),
        ({"train.learning_rate": {"low": 0.1, "high": 0.01}}, r"low \(0.1\) is not below high \(0.01\)"),
        ({"train.learning_rate": {"low": 0, "high": 0.1, "log": True}}, "low is above 0"),
        ({"train.epochs": {"choices": [3]}}, "tune.space.train.epochs"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(space, message):
    with pytest.raises(ConfigError, match=message):
        case(space=space)


def test_values_are_applied_as_the_command_line_does():
    dump = use_case().model_dump(mode="json")
    changed = parse_use_case(apply_overrides(dump, {"model": "residual_cnn", "train.epochs": 7}), where="x.yaml")
    assert (changed.model.name, changed.train.epochs) == ("residual_cnn", 7)
