"""The train stage as a whole, with MLflow going away while it trains."""

import contextlib
import csv
import json

import pytest
from tiny_training import PREPROCESSOR, use_case, write_features

from lepton_tasks.core.artifacts import DatasetRef, PreprocessorRef, QualityReportRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.store import write_json
from lepton_tasks.stages.runner import run_stage
from lepton_tasks.training.checkpoint import read_checkpoint


class Tracker:
    """A server that answers once: when the run is begun."""

    away_after_start, ended, files_sent, epochs_sent = True, [], [], []

    def __init__(self, url):
        self.away = False

    def _answer(self):
        if self.away:
            raise UnavailableError("MLflow does not answer.")

    def start(self, experiment, run_name, tags, *, resume=None):
        assert tags["mlflow.note.content"] == "**Quarters**\n\nTells where the light is."
        assert tags["mlflow.source.name"] == "quarters.yaml"
        return resume or "a-run", "1"

    def params(self, run_id, values):
        assert values["train.augment.0.params.translate"] == 0.05
        self.away = self.away_after_start

    @contextlib.contextmanager
    def system_metrics(self, run_id):
        yield

    def inputs(self, run_id, inputs):
        self._answer()

    def metrics(self, run_id, values, step):
        self._answer()
        self.epochs_sent.append(step)

    def files(self, run_id, path, at=None):
        self._answer()
        assert path.exists()
        self.files_sent.append(f"{at}/{path.name}" if at else path.name)

    def end(self, run_id, status):
        self._answer()
        self.ended.append(status)


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


@pytest.fixture
def refs(ctx):
    features = ctx.store.draft("transform", "f" * 32)
    write_features(features.path)
    preprocessor = ctx.store.draft("fit_features", "p" * 32)
    write_json(preprocessor.path / "preprocessor.json", PREPROCESSOR)
    quality = {}
    for what in ("raw", "cleaned", "features"):
        draft = ctx.store.draft(f"validate_{what}", "q" * 32)
        (draft.path / "docs").mkdir()
        (draft.path / "docs" / "index.html").write_text("<html>")
        quality[f"{what}_quality"] = draft.publish(QualityReportRef)
    cleaned = ctx.store.draft("clean", "c" * 32)
    write_json(cleaned.path / "report.json", {})
    cleaned = cleaned.publish(DatasetRef)
    return {
        "features": features.publish(DatasetRef),
        "preprocessor": preprocessor.publish(PreprocessorRef),
        "raw": cleaned,
        "cleaned": cleaned,
        **quality,
    }


def test_a_training_outlives_mlflow_and_is_not_repeated_when_it_is_back(ctx, refs, monkeypatch, caplog):
    monkeypatch.setattr("lepton_tasks.tracking.mlflow.Tracker", Tracker)
    case = use_case(train={"epochs": 2})
    with pytest.raises(UnavailableError):
        run_stage("train", case, ctx, refs)
    assert sum("training continues" in record.getMessage() for record in caplog.records) == 1
    workdir = next((ctx.root / "work" / "train").iterdir())
    trained = (workdir / "best.pt").read_bytes()
    assert not Tracker.ended

    monkeypatch.setattr(Tracker, "away_after_start", False)
    ref = run_stage("train", case, ctx, refs).ref
    folder = ctx.open(ref)
    assert (folder / "model.pt").read_bytes() == trained
    assert Tracker.epochs_sent == [0, 1]
    assert Tracker.ended == ["FINISHED"]
    docs = {f"quality/{what}/docs" for what in ("raw", "cleaned", "features")}
    sent = {"use_case.yaml", *docs, "cleaning/report.json"}
    made = {"plots/curves.png", "plots/history.csv", "plots/learning_rate.png", "model_summary.txt"}
    assert sent | made == set(Tracker.files_sent)
    assert not workdir.exists()

    assert read_checkpoint(folder).network.training is False
    spec = json.loads((folder / "checkpoint.json").read_text())
    with (folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == ref.facts["epochs"] == 2
    assert float(rows[spec["best_epoch"]]["validation_accuracy"]) == ref.facts["validation_accuracy"]
    assert ref.facts["mlflow_run_id"] == "a-run"
    (energy,) = (name for name in rows[0] if name.endswith("_wh"))
    assert 0 < float(rows[0][energy]) < float(rows[1][energy]) == ref.facts[energy] == spec[energy]
