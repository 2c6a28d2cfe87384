"""Tables through the real stages; and the same row as part of a table, by itself, and in the ONNX graph."""

import dataclasses
import datetime as dt
import json
import math
import os
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import split_on_disk, table_on_disk

from lepton_tasks.core.catalogue import CODECS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.registry import check_params
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.data.tables.columns import TableColumns
from lepton_tasks.data.tables.fitted_steps import FittedSteps, training_change
from lepton_tasks.data.tables.hashes import hash_values
from lepton_tasks.data.tables.steps.impute import Impute
from lepton_tasks.data.tables.steps.outliers import Outliers
from lepton_tasks.models.tables import TableFeatures
from lepton_tasks.stages.runner import run_pipeline, run_stage

ROWS = 240
COLUMNS = {
    "logged": "log",
    "ranked": "quantile",
    "powered": "power",
    "robust": "robust",
    "squeezed": "min_max",
    "binned": {"transform": "bins", "bins": 9},
    "amount": "bins",
    "hashed": {"transform": "hashing", "buckets": 7},
    "grade": "ordinal",
    "shop": {"transform": "target", "folds": 3},
}
STEPS = [
    ("impute", {"columns": ("plain", "word"), "strategy": "mode", "mark": True}),
    ("outliers", {"columns": ("plain", "logged")}),
    ("outliers", {"columns": ("ranked",), "action": "mark"}),
]


def people() -> pl.DataFrame:
    """Columns of every type, a ninth of the values missing."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "plain": random.normal(size=ROWS),
            "logged": random.lognormal(size=ROWS),
            "count": random.integers(0, 9, ROWS),
            "ranked": random.normal(size=ROWS) * 100,
            "powered": random.lognormal(size=ROWS),
            "robust": random.normal(size=ROWS),
            "squeezed": random.normal(size=ROWS),
            "binned": random.lognormal(size=ROWS),
            "amount": random.choice([0, 0, 0, 1_000, 5_000], ROWS),
            "member": random.integers(0, 2, ROWS) > 0,
            "word": random.choice(list("abcd"), ROWS),
            "hashed": random.choice(["x", "é", "zz"], ROWS),
            "grade": random.integers(0, 5, ROWS),
            "shop": random.choice(list("klm"), ROWS),
            "at": [dt.datetime(2024, 1, 1) + dt.timedelta(hours=7 * i) for i in range(ROWS)],
            "label": random.choice(["no", "yes"], ROWS),
        }
    )
    holes = (
        pl.when(pl.int_range(ROWS).hash(i) % 9 > 0).then(name).alias(name) for i, name in enumerate(frame.columns[:-1])
    )
    return frame.with_columns(*holes)


class Fitted:
    """The extractor and the steps before it, fitted on a training split; its graph; and its codec."""

    def __init__(self, folder: Path) -> None:
        self.frame = people()
        ctx = RunContext.local(folder)
        splits = split_on_disk(
            table_on_disk(self.frame, folder, rows_per_part=50), [0] * 160 + [1] * 40 + [2] * 40, folder
        )
        train, entries, operations = splits["train"], [], []
        for code, (name, params) in enumerate(STEPS, start=1):
            step = {"impute": Impute, "outliers": Outliers}[name](**params)
            values = step.fit(train, ctx)
            entries.append({"name": name, "params": params, "fitted": values, "code": code})
            operations += step.operations(values)
            train = train.changed(training_change(step, values))
        params = {"columns": COLUMNS, "crosses": [{"columns": ["word", "grade"], "buckets": 13}]}
        self.extractor = TableColumns(**check_params(TableColumns, params))
        self.extractor.check(train.schema, "label")
        fitted = self.extractor.fit_rows(train, ctx, label="label", operations=operations)
        # As serving sees it: through JSON.
        self.fitted, entries = json.loads(json.dumps([fitted, entries]))
        preprocessor = {"steps": entries, "labels": ["no", "yes"]}
        self.fitted_steps = FittedSteps.of(preprocessor, label="label", codes=str(splits["train"].codes))
        self.rows, self.folder = splits["train"], folder
        self.network = TableFeatures(self.fitted).eval()
        name, params = self.extractor.codec(self.fitted)
        self.codec = CODECS.build(name, params)
        example = torch.tensor(self.decoded(self.frame.head(3)))
        path = folder / "graph.onnx"
        program = torch.onnx.export(
            self.network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            external_data=False,
            opset_version=20,
        )
        program.save(str(path))
        self.session = onnxruntime.InferenceSession(str(path))

    def decoded(self, frame: pl.DataFrame) -> np.ndarray:
        """The rows one by one, as requests, float64 [N, columns]."""
        requests = (json.dumps(row, default=dt.datetime.isoformat).encode() for row in frame.to_dicts())
        return np.stack([self.codec.decode(request) for request in requests])

    def in_batch(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and codes of rows that are not of the training split, as the stage `transform` makes them."""
        folder = self.folder / "batch"
        folder.mkdir(exist_ok=True)
        splits = split_on_disk(table_on_disk(frame, folder, rows_per_part=17), [2] * len(frame), folder)
        fitted_steps = dataclasses.replace(self.fitted_steps, codes=str(splits["test"].codes))
        made = fitted_steps.annotate(splits["test"]).changed(
            lambda rows: rows.select("_row", *self.extractor.feature_expressions(self.fitted))
        )
        out = pl.concat(made.frames())
        return out.select(self.network.numbers).to_numpy(), out.select(self.network.codes).to_numpy()

    def in_graph(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The same by ONNX Runtime."""
        name = self.session.get_inputs()[0].name
        numbers, codes = self.session.run(None, {name: self.decoded(frame)})
        return numbers, codes


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return Fitted(tmp_path_factory.mktemp("fitted"))


def assert_same(found, expected):
    assert [array.dtype for array in found] == [np.float32, np.int32]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert (found[1] == expected[1]).all()


def test_known_rows_are_the_same_in_batch_by_themselves_and_in_the_graph(fitted):
    frame = fitted.frame.tail(80)
    batch = fitted.in_batch(frame)
    assert np.isfinite(batch[0]).all()
    assert batch[0].std(axis=0).min() > 0.01
    numbers, codes = fitted.network(torch.tensor(fitted.decoded(frame)))
    assert_same((numbers.numpy(), codes.numpy()), batch)
    assert_same(fitted.in_graph(frame), batch)


number = st.none() | st.floats(-1e9, 1e9)
words = st.none() | st.sampled_from(["a", "b", "x", "é", "k", "unknown", ""])
row = st.fixed_dictionaries(
    dict.fromkeys(("plain", "logged", "ranked", "powered", "robust", "squeezed"), number)
    | {name: st.none() | st.integers(-3, 12) for name in ("count", "grade")}
    | dict.fromkeys(("word", "hashed", "shop"), words)
    | {
        "member": st.none() | st.booleans(),
        "at": st.none() | st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2080, 1, 1)),
    }
    | {"label": st.just("no")}
)


@settings(max_examples=40)
@given(st.lists(row, min_size=1, max_size=30))
def test_any_row_is_the_same_in_batch_by_itself_and_in_the_graph(fitted, rows):
    frame = pl.DataFrame(rows, schema=fitted.frame.schema)
    assert_same(fitted.in_graph(frame), fitted.in_batch(frame))


def test_in_the_training_split_a_rows_own_label_is_not_in_its_rate(fitted):
    frame = fitted.frame.head(160)
    made = fitted.fitted_steps.annotate(fitted.rows).changed(
        lambda rows: rows.select("_row", *fitted.extractor.feature_expressions(fitted.fitted))
    )
    rates = pl.concat(made.frames()).join(frame.with_row_index("_row").cast({"_row": pl.Int64}), on="_row")
    feature = next(f for f in fitted.fitted["features"] if f["kind"] == "target")
    prior = (frame["label"] == "yes").mean()
    folds = frame.with_columns(fold=hash_values(pl.Series(range(160)), seed=feature["seed"]) % 3)
    for shop, fold, rate in rates.with_columns(folds["fold"]).select("shop", "fold", "shop_rate").iter_rows():
        others = folds.filter(pl.col("shop").eq_missing(pl.lit(shop)) & (pl.col("fold") != fold))
        expected = ((others["label"] == "yes").sum() + 20 * prior) / (len(others) + 20)
        assert rate == pytest.approx(expected, abs=1e-6)


def test_adult_income_from_file_to_features(tmp_path):
    folder = os.environ.get("LEPTON_TEST_DATA")
    if folder is None or not (Path(folder) / "adult").is_dir():
        pytest.skip("LEPTON_TEST_DATA names no folder with `adult`")
    root = Path(__file__).parents[2]
    case = load_use_case(root / "configs" / "use_cases" / "adult_income.yaml")
    ctx, refs = RunContext.local(tmp_path, data_root=folder), {}
    stages = {
        "ingest": "raw",
        "clean": "cleaned",
        "split": "splits",
        "fit_features": "preprocessor",
        "transform": "features",
    }
    for stage, produces in stages.items():
        refs[produces] = run_stage(stage, case, ctx, refs).ref
    raw, cleaned, features = (refs[name].facts for name in ("raw", "cleaned", "features"))
    assert raw["rows"] == cleaned["rows"] + cleaned["refused"] == 32_561
    assert cleaned["refused"] == 24
    assert sum(features[f"{name}_rows"] for name in ("train", "validation", "test")) == cleaned["rows"]
    train = pl.read_parquet(sorted((ctx.open(refs["features"]) / "train").glob("part-*.parquet")))
    assert train["age"].mean() == pytest.approx(0, abs=1e-5)
    assert train["age"].std() == pytest.approx(1, abs=1e-3)
    assert train["workclass"].min() == 1  # "?" is a missing value, which has code 1
    assert train.null_count().row(0) == (0,) * train.width
    shares = [np.load(ctx.open(refs["features"]) / name / "targets.npy").mean() for name in ("train", "test")]
    assert math.isclose(*shares, abs_tol=1e-3)


def run_csv(root, text, split=None, **quality):
    """The run of a use case over one CSV file, up to its features."""
    (root / "rows.csv").write_text(text)
    raw = {
        "name": "rows",
        "data": {"source": {"name": "csv", "params": {"path": str(root / "rows.csv")}}, "split": split or {}},
        "features": "table",
        "quality": quality,
    }
    ctx = RunContext.local(root)
    return run_pipeline(parse_use_case(raw, where="rows.yaml"), ctx), ctx


def report_of(ctx, ref):
    return json.loads((ctx.open(ref) / "report.json").read_text())


def test_labels_of_one_class_stop_at_the_first_check(tmp_path):
    result, _ = run_csv(tmp_path, "x,label\n" + "".join(f"{i},a\n" for i in range(30)))
    assert result.stages[-1].stage == "validate_raw"
    told = str(result.stages[-1].error)
    assert "rows.yaml: data: the label 'label' has only one value, 'a': nothing can be told apart." in told
    assert "expect_column" not in told


def test_an_empty_column_and_numbers_that_are_none_are_told_in_the_log_and_on_the_page(tmp_path, caplog):
    lines = [f"{'inf' if i % 10 == 0 else 'nan' if i % 7 == 0 else i},,{'ab'[i % 2]}" for i in range(60)]
    result, ctx = run_csv(tmp_path, "x,y,label\n" + "\n".join(lines))
    assert result.ok
    told = [
        "Column 'x' is not a number in 8 of 60 rows; features treat it as missing.",
        "Column 'x' is infinite in 6 of 60 rows; features treat it as missing.",
        "Column 'y' has no value in any of the 60 rows.",
    ]
    assert all(sentence in caplog.text for sentence in told)
    assert report_of(ctx, result.refs["raw_quality"])["note"].strip() == " ".join(told)
    x = pl.concat(map(pl.read_parquet, (ctx.open(result.refs["features"])).glob("*/part-*.parquet")))["x"]
    assert x.is_finite().all()


def test_features_of_the_other_splits_are_compared_with_those_that_are_learned_from(tmp_path):
    lines = [
        f"{i},{i if i < 140 else -900},{'ab'[i % 2]}" for i in range(200)
    ]  # time: the last 60 are not learned from
    split = {"method": "time", "column": "t"}
    result, ctx = run_csv(tmp_path, "t,x,label\n" + "\n".join(lines), split)
    cleaned, features = (report_of(ctx, result.refs[name]) for name in ("cleaned_quality", "features_quality"))
    wrong = [(fault["column"], fault["severity"], fault["share"]) for fault in cleaned["failed"]]
    assert wrong == [("x", "warning", 1.0)]  # and not t, by which the rows are split
    assert ("x", "warning", 1.0) in [
        (fault["column"], fault["severity"], fault["share"]) for fault in features["failed"]
    ]
    against = pl.read_parquet(ctx.open(result.refs["features_quality"]) / "failing_rows.parquet")
    assert set(against.filter(column="x")["origin"]) == {"validation", "test"}
