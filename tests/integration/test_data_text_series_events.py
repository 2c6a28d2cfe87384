"""The use cases of text, pairs, series and events on real data, from the source to the checked features."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_tasks.codecs.text import load_tokenizer
from lepton_tasks.core.catalogue import CODECS, TABLE_FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.artifact import open_cleaned, open_splits
from lepton_tasks.stages.runner import run_pipeline

USE_CASES = Path(__file__).parents[2] / "configs" / "use_cases"
DATA = os.environ.get("LEPTON_TEST_DATA")

needs_data = pytest.mark.skipif(not DATA, reason="LEPTON_TEST_DATA names no folder with the public data sets")


class Run:
    """One use case whose data part has run, and what it wrote."""

    def __init__(self, name, root):
        whole = load_use_case(USE_CASES / f"{name}.yaml")
        self.use_case = whole.model_copy(update={"task": None, "model": None})  # up to the features
        self.ctx = RunContext.local(root, data_root=DATA)
        outcome = run_pipeline(self.use_case, self.ctx)
        assert [(r.stage, r.error) for r in outcome.stages if r.state != "success"] == []
        self.refs = outcome.refs
        self.preprocessor = json.loads((self.ctx.open(self.refs["preprocessor"]) / "preprocessor.json").read_text())
        self.fitted, self.labels = self.preprocessor["fitted"], self.preprocessor["labels"]

    def array(self, split, name="inputs"):
        return np.load(self.ctx.open(self.refs["features"]) / split / f"{name}.npy")

    def rows(self, split):
        return pl.concat(open_splits(self.ctx, self.refs["splits"])[split].frames())

    def counts_add_up(self):
        report = json.loads((self.ctx.open(self.refs["cleaned"]) / "report.json").read_text())
        rejected = pl.read_parquet(self.ctx.open(self.refs["cleaned"]) / "rejected.parquet")
        assert report["rows_refused"] == rejected.height
        cleaned = open_cleaned(self.ctx, self.refs["cleaned"]).height
        assert sum(self.rows(split).height for split in SPLITS) == cleaned
        return report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return functools.cache(lambda name: Run(name, tmp_path_factory.mktemp(name)))


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "classes"),
    [("ag_news", 5_195, 4), ("reuters_r8", 5_100, 8), ("banking77", 10_000, 77), ("sst2_sentiment", 7_700, 2)],
)
def test_text(run, name, rows, classes):
    made = run(name)
    made.counts_add_up()
    kept = sum(made.rows(split).height for split in SPLITS)
    assert kept == pytest.approx(rows, rel=0.02)
    assert len(made.labels) == classes
    for split in SPLITS:
        tokens, targets = made.array(split), made.array(split, "targets")
        assert len(tokens) == len(targets) == made.rows(split).height
        assert set(np.unique(targets)) <= set(range(classes))
        assert (tokens[:, 0] > 0).all()
    codec_name, params = codec_of(made)
    row = made.rows("test").row(7, named=True)
    columns = params["columns"]
    body = row[columns[0]] if len(columns) == 1 else json.dumps({c: row[c] for c in columns})
    np.testing.assert_array_equal(CODECS.build(codec_name, params).decode(body.encode()), made.array("test")[7])


def codec_of(made):
    spec = made.use_case.features
    return TABLE_FEATURES.build(spec.name, spec.params).codec(made.fitted)


def test_languages_without_any_download(run):
    made = run("language_id")
    made.counts_add_up()
    assert len(made.labels) == 21
    texts = [set(made.rows(split)["text"].to_list()) for split in SPLITS]
    assert not texts[0] & texts[2]
    assert len(made.array("train")) > 10_000


@needs_data
def test_news_of_later_days_is_tested_on(run):
    made = run("reuters_r8")
    last = made.rows("train")["time"].max()
    assert last <= made.rows("validation")["time"].min()
    assert made.rows("validation")["time"].max() <= made.rows("test")["time"].min()


@needs_data
def test_pairs(run):
    made = run("multi30k_en_de")
    made.counts_add_up()
    reader = load_tokenizer(made.fitted["target_tokenizer"])
    targets, rows = made.array("test", "targets"), made.rows("test")
    column = made.use_case.features.params["target"]
    for i in (0, 100, 400):
        assert reader.decode(targets[i].tolist()).replace("<s>", "").strip() == rows[column][i]
    shared = set(made.rows("train")["en"].to_list()) & set(rows["en"].to_list())
    assert not shared  # one picture has several captions, and the same sentence in both would be a leak


@needs_data
def test_series(run):
    made = run("beijing_pm25")
    report = made.counts_add_up()
    assert {entry["step"]: entry["refused"] for entry in report["steps"]}["fill_gaps"] > 1_000
    train, test = made.rows("train"), made.rows("test")
    assert train["time"].max() < test["time"].min()
    assert made.fitted["mean"][0] == pytest.approx(train["pm2.5"].mean())
    inputs, targets = made.array("test"), made.array("test", "targets")
    assert len(inputs) == len(targets) > 4_000
    assert np.isfinite(inputs).all()
    ids = pl.read_parquet(made.ctx.open(made.refs["features"]) / "test" / "ids.parquet")["row"]
    params = made.use_case.features.params
    pm, position = params["columns"].index("pm2.5"), 500
    first = test["_row"].to_list().index(ids[position])
    hours = test[first - params["window"] : first + params["horizon"]]
    assert (hours["time"].diff().drop_nulls().dt.total_hours() == 1).all()
    np.testing.assert_array_equal(targets[position], hours["pm2.5"][params["window"] :].to_numpy().astype(np.float32))
    seen = inputs[position, :, pm] * made.fitted["std"][pm] + made.fitted["mean"][pm]
    np.testing.assert_allclose(seen, hours["pm2.5"][: params["window"]].to_numpy(), rtol=1e-4, atol=1e-3)


@needs_data
@pytest.mark.parametrize(("name", "user"), [("movielens_ratings", "userId"), ("retailrocket_items", "user")])
def test_events(run, name, user):
    made = run(name)
    made.counts_add_up()
    ends = made.rows("train").group_by(user).agg(pl.col("position").max())
    later = made.rows("test").group_by(user).agg(pl.col("position").min().alias("later"))
    both = ends.join(later, on=user)
    assert both.height > 500
    assert (both["position"] < both["later"]).all()
    assert made.array("train").min() == 1
    assert (made.array("test")[:, 1] == 0).mean() < 0.2  # items that training has not seen
