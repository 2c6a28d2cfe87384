"""Table stages over in-memory sources: every row comes out or is rejected with a reason."""

import dataclasses
import datetime as dt
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import Frames

from lepton_tasks.core import catalogue
from lepton_tasks.core.artifacts import parse_ref
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.registry import load_object
from lepton_tasks.core.use_case import UseCase, parse_use_case
from lepton_tasks.data.tables.artifact import open_cleaned
from lepton_tasks.data.tables.dictionaries import DictionaryColumn
from lepton_tasks.stages import pipeline
from lepton_tasks.stages.runner import run_stage

STAGES = {s.name: s.produces for s in pipeline.STAGES if s.group == "data" and not s.name.startswith("validate")}


class EveryOther:
    """A whole-table step that drops every other row and adds one."""

    def check(self, schema):
        pass

    def apply(self, frame):
        odd = frame.filter(pl.col("_row") % 2 == 1).select("_row", pl.lit("odd").alias("reason"))
        made = frame.tail(1).with_columns(pl.lit(None, pl.Int64).alias("_row"))
        return pl.concat([frame.filter(pl.col("_row") % 2 == 0), made]), odd


class Forgetful(EveryOther):
    def apply(self, frame):
        return frame.head(1), frame.head(0).select("_row", pl.lit("x").alias("reason"))


@pytest.fixture(autouse=True)
def components(monkeypatch):
    entries = {"every_other": f"{__name__}:EveryOther", "forgetful": f"{__name__}:Forgetful"}
    monkeypatch.setattr(catalogue.TABLE_STEPS, "entries", catalogue.TABLE_STEPS.entries | entries)
    monkeypatch.setattr(catalogue.TABLE_SOURCES, "entries", {"frames": "tiny_tables:Frames"})


def run(root, frames, clean=(), *, until="transform", split=None, label="label", workers=0, **features):
    """Artifact folders by name."""
    Frames.frames = frames
    raw = {
        "name": "tiny",
        "data": {"source": "frames", "label": label, "split": split or {"method": "random"}},
        "clean": list(clean),
        "features": {"name": "table", "params": features},
    }
    case, ctx, refs = parse_use_case(raw, where="tiny.yaml"), RunContext.local(root, dask={"workers": workers}), {}
    for stage, produces in STAGES.items():
        refs[produces] = run_stage(stage, case, ctx, refs).ref
        if stage == until:
            break
    return {name: ctx.open(ref) for name, ref in refs.items()}


class Watched(UseCase):
    """Records the sections that a stage reads."""

    def __getattribute__(self, name):
        if name in UseCase.model_fields:
            read.add(name)
        return super().__getattribute__(name)


read: set[str] = set()


def test_a_stage_reads_no_section_that_its_fingerprint_lacks(tmp_path):
    Frames.frames = {"one": pl.DataFrame({"x": [1.0, None] * 15, "label": ["a", "b"] * 15})}
    raw = {
        "name": "tiny",
        "data": {"source": "frames", "split": {"method": "random"}},
        "clean": [{"name": "impute", "params": {"columns": ["x"]}}],
        "features": "table",
    }
    case, ctx, refs = Watched.model_validate(raw), RunContext.local(tmp_path), {}
    for stage in (stage for stage in pipeline.STAGES if stage.name in STAGES):
        here, inputs = dataclasses.replace(ctx, stage=stage.name, fingerprint="f"), {n: refs[n] for n in stage.inputs}
        read.clear()
        if stage.state:  # its dependencies are in the fingerprint, too
            load_object(stage.state)(case, here, **{name: refs[name] for name in stage.needs})
        by_state = set(read)
        read.clear()
        refs[stage.produces] = load_object(stage.function)(case, here, **inputs)
        known = {section.partition(".")[0] for section in stage.sections}
        # In messages, and to tell tables from samples, whose references differ.
        assert read - known - by_state <= {"name", "features"}, stage.name


def test_another_value_of_a_fitted_step_is_fitted_anew(tmp_path):
    frames = {"one": pl.DataFrame({"x": [1.0, 2.0, 9.0, None] * 10, "label": ["a", "b"] * 20})}
    filled = []
    for strategy in ("mean", "median"):
        folders = run(tmp_path, frames, [{"name": "impute", "params": {"columns": ["x"], "strategy": strategy}}])
        (step,) = json.loads((folders["preprocessor"] / "preprocessor.json").read_text())["steps"]
        filled.append(step["fitted"]["x"])
    assert filled[1] == 2.0 < filled[0]


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def numbers(rows=60):
    return pl.DataFrame(
        {"id": range(rows), "x": [float(i) for i in range(rows)], "label": ["a", "b"] * (rows // 2)},
        schema_overrides={"id": pl.Int64},
    )


def test_rows_arrive_scaled_with_their_targets_and_numbers(tmp_path):
    frame = numbers()
    found = run(tmp_path, {"one": frame[:25], "two": frame[25:]}, ignore=["id"])["features"]
    seen = {}
    for split in ("train", "validation", "test"):
        rows = pl.read_parquet(found / split / "ids.parquet")["row"].to_list()
        x = pl.read_parquet(sorted((found / split).glob("part-*.parquet")))["x"].to_list()
        targets = np.load(found / split / "targets.npy").tolist()
        seen |= {row: (value, target) for row, value, target in zip(rows, x, targets, strict=True)}
    assert sorted(seen) == list(range(60))
    assert [seen[row][1] for row in range(60)] == [0, 1] * 30
    assert np.diff([seen[row][0] for row in range(60)]) == pytest.approx(np.diff([seen[0][0], seen[1][0]])[0], abs=1e-5)
    train = pl.read_parquet(sorted((found / "train").glob("part-*.parquet")))["x"]
    assert train.mean() == pytest.approx(0, abs=1e-6)
    assert json.loads((found / "dataset.json").read_text())["labels"] == ["a", "b"]


values = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 9) | st.none()), min_size=25, max_size=60)


@settings(max_examples=8)
@given(values, st.permutations(["missing", "duplicates", "ranges"]))
def test_every_row_is_kept_or_refused_once_whatever_the_order_of_the_steps(tmp_path_factory, rows, order):
    rows = [*rows, *((100 + i, float(i % 7)) for i in range(20))]
    frame = pl.DataFrame(rows, schema={"id": pl.Int64, "x": pl.Float64}, orient="row")
    params = {"missing": {"columns": ["x"]}, "duplicates": {"columns": ["id"]}, "ranges": {"columns": {"x": [None, 7]}}}
    clean = [{"name": name, "params": params[name]} for name in order]
    folder = run(tmp_path_factory.mktemp("state"), {"a": frame[:9], "b": frame[9:]}, clean, until="clean", label=None)
    report = report_of(folder["cleaned"])
    rejected = pl.read_parquet(folder["cleaned"] / "rejected.parquet")
    expected = refused_in_python(rows, order)
    assert dict(rejected.select("row", "step").iter_rows()) == expected
    assert report["rows_in"] == report["rows_kept"] + report["rows_refused"] == len(rows)
    assert [entry["refused"] for entry in report["steps"]] == [list(expected.values()).count(name) for name in order]


def refused_in_python(rows, order):
    refused = {}
    for step in order:
        seen = set()
        for number, (key, x) in enumerate(rows):
            if number in refused:
                continue
            bad = {"missing": x is None, "ranges": x is not None and x > 7, "duplicates": key in seen}[step]
            seen.add(key)
            if bad:
                refused[number] = step
    return refused


def test_what_is_refused_keeps_its_values_as_they_came_and_its_origin(tmp_path):
    frame = numbers(20).with_columns(x=pl.Series(["1"] * 13 + ["oops"] + ["2"] * 6))
    clean = [{"name": "types", "params": {"columns": {"x": "float"}}}]
    folder = run(tmp_path, {"one": frame[:10], "two": frame[10:]}, clean, until="clean")["cleaned"]
    row = pl.read_parquet(folder / "rejected.parquet").to_dicts()
    assert [(r["step"], r["reason"], r["origin"], r["row"]) for r in row] == [("types", "x: not float", "two", 13)]
    assert json.loads(row[0]["text"]) == {"id": 13, "x": "oops", "label": "b"}
    assert report_of(folder)["steps"][0]["examples"][0]["row"] == 13


def test_columns_that_steps_change_are_written_once_beside_the_rows(tmp_path):
    frame = numbers(20).with_columns(
        id=pl.Series([0, 0, *range(2, 20)]),
        x=pl.Series(["1.5", "9", *map(str, range(2, 20))]),
        label=pl.Series(["a ", "b"] * 10),
    )
    clean = [
        {"name": "duplicates", "params": {"columns": ["id"]}},
        {"name": "types", "params": {"columns": {"x": "float"}}},
        {"name": "duplicates", "params": {"columns": ["x"]}},
        {"name": "labels", "params": {"column": "label"}},
        {"name": "ranges", "params": {"columns": {"x": [None, 17]}, "otherwise": "clip"}},
    ]
    folder = run(tmp_path, {"one": frame[:7], "two": frame[7:]}, clean, until="split")["cleaned"]
    assert sorted(path.name for path in folder.glob("*.arrow")) == [
        f"changed-003-{first:012d}.arrow" for first in (0, 7)
    ]
    ref = parse_ref(json.loads((folder / "_ref.json").read_text()))
    rows = pl.concat(open_cleaned(RunContext.local(tmp_path), ref).frames())
    assert rows["_row"].to_list() == [0, *range(2, 20)]
    assert rows["x"].to_list() == [1.5, *map(float, range(2, 18)), 17.0, 17.0]
    assert rows["label"].to_list() == ["a", *["a", "b"] * 9]
    assert rows["id"].to_list() == [0, *range(2, 20)]


def test_changes_are_counted_with_examples(tmp_path):
    frame = numbers(20).with_columns(label=pl.Series(["a ", "b"] * 10))
    clean = [{"name": "labels", "params": {"column": "label"}}]
    step = report_of(run(tmp_path, {"one": frame}, clean, until="clean")["cleaned"])["steps"][0]
    assert step["changed"] == 10
    assert step["change_examples"][0] == {"row": 0, "column": "label", "before": "a ", "after": "a"}


def test_a_value_that_is_the_same_in_another_type_is_no_example_of_a_change(tmp_path):
    frame = numbers(20).with_columns(t=pl.Series(["1", "2", "oops", *["3"] * 17]))
    clean = [{"name": "types", "params": {"columns": {"t": "float"}, "otherwise": "null"}}]
    step = report_of(run(tmp_path, {"one": frame}, clean, until="clean")["cleaned"])["steps"][0]
    assert step["changed"] == 1
    assert step["change_examples"] == [{"row": 2, "column": "t", "before": "oops", "after": None}]


def test_what_a_series_step_makes_and_fills_is_counted(tmp_path):
    hours = [0, 1, 2, 4, 5]
    time = [dt.datetime(2024, 1, 1, hour) for hour in hours]
    frame = pl.DataFrame({"time": time, "x": [1.0, None, 3, 5, 6]})
    clean = [
        {"name": "regular", "params": {"time": "time", "every": "1h"}},
        {"name": "fill_gaps", "params": {"time": "time", "columns": ["x"]}},
    ]
    report = report_of(run(tmp_path, {"one": frame}, clean, until="clean", label=None)["cleaned"])
    regular, fill_gaps = report["steps"]
    assert (regular["made"], fill_gaps["made"], report["rows_made"]) == (1, 0, 1)
    assert fill_gaps["changed"] == 2
    assert fill_gaps["change_examples"] == [
        {"row": 1, "column": "x", "before": None, "after": "1.0"},
        {"row": None, "column": "x", "before": None, "after": "3.0"},
    ]


def test_of_equal_rows_with_other_labels_none_is_kept(tmp_path):
    frame = numbers(20).with_columns(text=pl.Series(["same", "same", "same", "twin", "twin", *map(str, range(15))]))
    frame = frame.with_columns(label=pl.Series(["a", "b", "a", "c", "c", *["a", "b", "c"] * 5]))
    clean = [{"name": "duplicates", "params": {"columns": ["text"], "label": "label"}}]
    folder = run(tmp_path, {"one": frame[:2], "two": frame[2:]}, clean, until="clean")["cleaned"]
    rejected = pl.read_parquet(folder / "rejected.parquet").sort("row")
    conflict = "conflicting labels for the same key, as in row: "
    assert dict(rejected.select("row", "reason").iter_rows()) == {
        0: conflict + "1",
        1: conflict + "0",
        2: conflict + "0",
        4: "same key as an earlier row: 3",
    }
    with pytest.raises(ConfigError, match="rows of equal 'label' cannot differ in it"):
        run(tmp_path, {"one": frame}, [{"name": "duplicates", "params": {"columns": ["label"], "label": "label"}}])


def test_fitted_steps_tell_what_they_change(tmp_path, caplog):
    values = [None, math.nan, 500.0, *map(float, range(57))]
    frame = numbers().with_columns(x=pl.Series(values), w=pl.Series([None, *["u"] * 59]), y=pl.Series(values))
    clean = [
        {"name": "impute", "params": {"columns": ["x", "w"], "strategy": "mode"}},
        {"name": "outliers", "params": {"columns": ["x"], "method": "iqr", "action": "clip"}},
        {"name": "outliers", "params": {"columns": ["y"], "method": "iqr", "action": "drop"}},
    ]
    split = {"method": "time", "column": "id"}  # the first 42 rows are learned from
    folder = run(tmp_path, {"one": frame}, clean, split=split, ignore=["id"])
    train = pl.read_parquet(folder["features"] / "train" / "ids.parquet")["row"].to_list()
    impute, clip, drop = report_of(folder["preprocessor"])["steps"]
    assert [(change["column"], change["filled"]) for change in impute["columns"]] == [("x", 2), ("w", 1)]
    assert impute["columns"][1]["examples"] == [{"row": 0, "before": None, "after": "u"}]
    (clipped,) = clip["columns"]
    assert (clipped["done"], clipped["outside"], clipped["exact"]) == ("clip", 1, True)
    assert clipped["examples"][0]["before"] == 500
    assert clipped["examples"][0]["after"] < 500
    assert drop["columns"] == []
    assert 2 not in train
    assert "Refused 1 rows that earlier steps had kept: outliers 1." in caplog.text


def test_values_that_the_features_replace_count_as_filled(tmp_path):
    frame = numbers().with_columns(x=pl.Series([None, math.nan, *map(float, range(58))]))
    split = {"method": "time", "column": "id"}  # the first 42 rows are learned from
    report = report_of(run(tmp_path, {"one": frame}, split=split, ignore=["id"])["preprocessor"])
    assert (report["steps"], report["filled_by_features"]) == ([], {"x": 2})


def test_texts_become_codes_once_for_equal_ones(tmp_path, monkeypatch):
    mapped, mapping = [], DictionaryColumn.map
    monkeypatch.setattr(
        DictionaryColumn, "map", lambda self, column: mapped.append(self.values.name) or mapping(self, column)
    )
    frame = numbers().with_columns(word=pl.Series(["u", None, "v"] * 20))
    features = run(tmp_path, {"one": frame}, ignore=["id"])["features"]
    assert mapped == ["word"]
    codes = pl.concat(pl.read_parquet(path, columns=["word"]) for path in features.glob("*/part-*.parquet"))
    assert sorted(codes["word"].value_counts()["count"]) == [20, 20, 20]


def test_after_a_whole_step_rows_are_renumbered_and_refusals_still_name_the_row_as_it_came(tmp_path):
    frame = numbers(40).with_columns(label=pl.Series(["a", "a", "b", "b"] * 10))
    clean = [
        "every_other",
        {"name": "ranges", "params": {"columns": {"x": [None, 29]}}},
        {"name": "duplicates", "params": {"columns": ["id"]}},
    ]
    folder = run(tmp_path, {"one": frame[:10], "two": frame[10:]}, clean)
    report = report_of(folder["cleaned"])
    assert (report["rows_in"], report["rows_made"], report["rows_kept"], report["rows_refused"]) == (40, 1, 15, 26)
    rejected = pl.read_parquet(folder["cleaned"] / "rejected.parquet")
    assert rejected.filter(step="every_other")["row"].to_list() == list(range(1, 40, 2))
    assert rejected.filter(step="ranges")["row"].to_list() == [30, 32, 34, 36, 38, None]
    assert set(rejected.filter(step="every_other")["origin"]) == {"one", "two"}
    features = folder["features"]
    assert sum(len(np.load(path)) for path in features.glob("*/targets.npy")) == 15


def test_a_step_that_loses_rows_is_found_out(tmp_path):
    with pytest.raises(DataError, match="'forgetful' lost 19 rows"):
        run(tmp_path, {"one": numbers(20)}, ["forgetful"], until="clean")


def test_outliers_are_dropped_from_the_training_split_only(tmp_path):
    frame = numbers(100).with_columns(x=pl.when(pl.col("id") % 4 == 0).then(1000.0).otherwise(pl.col("x") % 3))
    clean = [{"name": "outliers", "params": {"columns": ["x"], "method": "iqr", "action": "drop", "factor": 50.0}}]
    found = run(tmp_path, {"one": frame}, clean, ignore=["id"])["features"]
    kept = {s: pl.read_parquet(found / s / "ids.parquet")["row"].to_list() for s in ("train", "validation", "test")}
    rejected = pl.read_parquet(found / "rejected.parquet")["row"].to_list()
    assert len(rejected) + sum(map(len, kept.values())) == 100
    assert all(row % 4 == 0 for row in rejected)
    if rejected:
        assert not any(row % 4 == 0 for row in kept["train"])
    assert any(row % 4 == 0 for row in kept["test"] + kept["validation"])


def test_a_class_that_training_does_not_know_is_refused(tmp_path):
    frame = numbers(100).with_columns(at=pl.int_range(100), label=pl.Series(["a", "b"] * 45 + ["new"] * 10))
    found = run(tmp_path, {"one": frame}, split={"method": "time", "column": "at"})["features"]
    rejected = pl.read_parquet(found / "rejected.parquet")
    assert rejected["row"].to_list() == list(range(90, 100))
    assert set(rejected["reason"]) == {"a class unknown in training"}
    assert len(np.load(found / "test" / "targets.npy")) == 5


def test_numbers_are_learned_as_float32(tmp_path):
    found = run(tmp_path, {"one": numbers().with_columns(label=pl.col("x") * 2)}, split={"method": "random"})[
        "features"
    ]
    targets = np.load(found / "train" / "targets.npy")
    assert targets.dtype == np.float32
    assert targets.tolist() == [row * 2.0 for row in pl.read_parquet(found / "train" / "ids.parquet")["row"]]


def test_all_rows_refused_says_by_which_step(tmp_path):
    clean = [{"name": "ranges", "params": {"columns": {"x": [1000, None]}}}]
    with pytest.raises(DataError, match="all 60 rows were refused: ranges 60"):
        run(tmp_path, {"one": numbers()}, clean)


def test_a_step_with_a_wrong_column_is_named_with_its_place(tmp_path):
    clean = ["duplicates", {"name": "missing", "params": {"columns": ["y"]}}]
    with pytest.raises(ConfigError, match=r"tiny.yaml: clean.1.missing.columns: the table has no column 'y'"):
        run(tmp_path, {"one": numbers()}, clean)


def test_no_rows_at_all(tmp_path):
    with pytest.raises(DataError, match="there are no rows to read"):
        run(tmp_path, {"one": numbers().head(0)})


def test_columns_that_are_ours_are_refused(tmp_path):
    with pytest.raises(DataError, match="'_row'"):
        run(tmp_path, {"one": numbers().rename({"id": "_row"})})


def test_the_number_of_workers_does_not_show(tmp_path):
    frame = numbers()
    digests = set()
    for workers in (1, 3):
        folder = run(tmp_path / str(workers), {"one": frame[:25], "two": frame[25:]}, ["duplicates"], workers=workers)
        digests.add(json.loads((folder["features"] / "_ref.json").read_text())["digest"])
    assert len(digests) == 1


def test_a_label_that_is_no_number_is_refused_before_anything_is_learned(tmp_path):
    Frames.frames = {"one": pl.DataFrame({"size": [1.0, 2.0, 3.0], "price": ["10", "cheap", None]})}
    raw = {
        "name": "tiny",
        "task": "tabular_regression",
        "model": "mlp",
        "data": {"source": "frames", "label": "price"},
        "features": "table",
    }
    case, ctx = parse_use_case(raw, where="tiny.yaml"), RunContext.local(tmp_path)
    refs = {"raw": run_stage("ingest", case, ctx, {}).ref}
    with pytest.raises(ConfigError, match=r"'price' holds 'cheap'.*needs fractions") as error:
        run_stage("clean", case, ctx, refs)
    assert "types" in error.value.fix
    classes = parse_use_case(raw | {"task": "tabular_classification"}, where="tiny.yaml")
    assert run_stage("clean", classes, ctx, refs).ref is not None
    with pytest.raises(ConfigError, match="cheap"):  # the rows cleaned for classes are not reused
        run_stage("clean", case, ctx, refs)
