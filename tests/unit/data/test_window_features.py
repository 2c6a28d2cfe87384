import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import table_rows

from lepton_tasks.codecs.series import SeriesCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.extractors.windows import Windows

START = dt.datetime(2024, 1, 30)


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


def frame(hours, **columns):
    times = [START + dt.timedelta(hours=int(hour)) for hour in hours]
    return pl.DataFrame({"time": times, "x": [float(hour) for hour in hours], **columns})


def made(features, rows, folder, ctx, learned=None):
    learned = learned or features.fit(rows, ctx)
    facts = features.transform(rows, learned, folder, ctx)
    arrays = [np.load(folder / f"{name}.npy") for name in ("inputs", "targets")]
    assert facts["rows"] == len(arrays[0]) == len(arrays[1])
    return *arrays, pl.read_parquet(folder / "ids.parquet")["row"].to_list(), learned


def test_windows_and_what_follows(tmp_path, ctx):
    rows = table_rows(tmp_path, frame(range(10)), parts=3)
    inputs, targets, ids, learned = made(Windows("time", ("x",), "x", window=3, horizon=2), rows, tmp_path, ctx)
    assert inputs.dtype == targets.dtype == np.float32
    assert targets.tolist() == [[i, i + 1] for i in range(3, 9)]
    assert ids == list(range(3, 9))
    assert learned["mean"] == [4.5]
    assert learned["std"] == [pytest.approx(np.std(range(10)))]
    expected = (np.arange(6)[:, None] + np.arange(3) - 4.5) / np.std(range(10))
    np.testing.assert_allclose(inputs[:, :, 0], expected, rtol=1e-6)


def test_stride(tmp_path, ctx):
    rows = table_rows(tmp_path, frame(range(10)))
    _, targets, _, _ = made(Windows("time", ("x",), "x", window=3, stride=3), rows, tmp_path, ctx)
    assert targets.ravel().tolist() == [3, 6, 9]


def test_after_a_hole_the_stride_is_counted_from_the_first_row_with_a_value(tmp_path, ctx):
    rows = table_rows(tmp_path, frame(range(10)).with_columns(pl.when(pl.col("x") != 2).then("x").alias("x")))
    _, targets, _, _ = made(Windows("time", ("x",), "x", window=2, stride=3), rows, tmp_path, ctx)
    assert targets.ravel().tolist() == [5, 8]


@settings(max_examples=40)
@given(
    hours=st.lists(st.integers(0, 60), min_size=8, max_size=50, unique=True).map(sorted),
    holes=st.sets(st.integers(0, 49), max_size=4),
    window=st.integers(1, 4),
    horizon=st.integers(1, 3),
    lag=st.integers(0, 3),
)
def test_no_window_crosses_a_gap_a_hole_or_a_group(tmp_path_factory, hours, holes, window, horizon, lag):
    folder = tmp_path_factory.mktemp("windows")
    ctx = RunContext.local(folder)
    one = frame(hours).with_columns(pl.when(~pl.int_range(pl.len()).is_in(list(holes))).then("x").alias("x"))
    both = pl.concat([one.with_columns(g=pl.lit("a"), s=0.0), one.with_columns(g=pl.lit("b"), s=1000.0)])
    both = both.select("time", "g", x=pl.col("x") + pl.col("s")).sample(fraction=1, shuffle=True, seed=1)
    features = Windows("time", ("x",), "x", window=window, horizon=horizon, group=("g",), lags=(lag,) if lag else ())
    learned = {"step_seconds": 3600, "mean": [0.0], "std": [1.0], "categories": {}}
    there = {hour for i, hour in enumerate(hours) if i not in holes}
    spans = [range(hour - lag, hour + window + horizon) for hour in hours]
    expected = sorted(s + span[lag + window] for span in spans if there.issuperset(span) for s in (0, 1000))
    if not expected:
        with pytest.raises(DataError, match="follow each other without a gap"):
            made(features, table_rows(folder, both), folder, ctx, learned)
        return
    inputs, targets, _, _ = made(features, table_rows(folder, both), folder, ctx, learned)
    assert sorted(targets[:, 0].tolist()) == expected
    line = np.concatenate([inputs[:, :, 0], targets], axis=1)
    assert (np.diff(line, axis=1) == 1).all()
    if lag:
        np.testing.assert_array_equal(inputs[:, :, 1], inputs[:, :, 0] - lag)


@settings(max_examples=15)  # the first example imports Dask
@given(data=st.data())
def test_a_window_on_dask_equals_one_in_serving(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("serving")
    ctx, count = RunContext.local(folder), 30
    numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=count, max_size=count)
    winds = st.lists(st.sampled_from(["N", "S", "W"]), min_size=count, max_size=count)
    table = frame(range(count), y=data.draw(numbers), wind=data.draw(winds))
    features = Windows(
        "time", ("x", "y"), "y", window=4, categories=("wind",), lags=(2, 9), calendar=("hour", "weekday", "month")
    )
    inputs, _, ids, learned = made(features, table_rows(folder, table), folder, ctx)
    codec = SeriesCodec(**json.loads(json.dumps(features.codec(learned)[1])))
    for window, row in zip(inputs, ids, strict=True):
        past = [{**r, "time": r["time"].isoformat()} for r in table[row - 13 : row].iter_rows(named=True)]
        np.testing.assert_array_equal(codec.decode(json.dumps({"rows": past}).encode()), window)


def test_numbers_that_are_none_are_holes_and_spoil_no_scale(tmp_path, ctx):
    numbers = [float("nan") if i == 4 else float("inf") if i == 12 else float(i) for i in range(20)]
    rows = table_rows(tmp_path, frame(range(20), y=numbers))
    inputs, targets, _, learned = made(Windows("time", ("y",), "y", window=3), rows, tmp_path, ctx)
    known = [float(i) for i in range(20) if i not in (4, 12)]
    assert learned["mean"] == [pytest.approx(np.mean(known))]
    assert (learned["std"], learned["target_std"]) == ([pytest.approx(np.std(known))], pytest.approx(np.std(known)))
    assert np.isfinite(inputs).all()
    assert targets.ravel().tolist() == [3, 8, 9, 10, 11, 16, 17, 18, 19]


def test_a_column_without_a_value_and_times_that_do_not_move_are_named(tmp_path, ctx):
    nothing = table_rows(tmp_path, frame(range(5)).with_columns(y=pl.lit(None, pl.Float64)))
    with pytest.raises(DataError, match="'y' has no value in the training split"):
        Windows("time", ("x", "y"), "x", window=2).fit(nothing, ctx)
    same = table_rows(tmp_path, frame([1] * 5))
    with pytest.raises(DataError, match=r"most rows have the 'time' of the row before.*`group`"):
        Windows("time", ("x",), "x", window=2).fit(same, ctx)


def test_a_later_split_changes_nothing_that_was_fitted_and_begins_after_the_line(tmp_path, ctx):
    features = Windows("time", ("x",), "x", window=3)
    train, test = table_rows(tmp_path, frame(range(20))), table_rows(tmp_path, frame(range(20, 30)))
    learned = features.fit(train, ctx)
    _, targets, _, _ = made(features, test, tmp_path, ctx, learned)
    assert features.fit(train, ctx) == learned
    assert learned["mean"] == [9.5]
    assert targets.min() == 23  # the first window is 20, 21, 22


def test_a_column_of_one_value_is_not_divided_by_nought(tmp_path, ctx):
    rows = table_rows(tmp_path, frame(range(6), y=[2.0] * 6))
    inputs, *_ = made(Windows("time", ("y",), "x", window=2), rows, tmp_path, ctx)
    assert (inputs == 0).all()


def test_settings_are_checked():
    schema = {"time": pl.Datetime(), "x": pl.Float64(), "w": pl.String()}
    with pytest.raises(ConfigError, match="lags of 'x', which is not among `columns`"):
        Windows("time", ("y",), "x", lags=(1,)).check(schema | {"y": pl.Int64()}, None)
    with pytest.raises(ConfigError, match="'w' holds String, not numbers"):
        Windows("time", ("w",), "x").check(schema, None)
    with pytest.raises(ConfigError, match="learn the column 'x', not a label"):
        Windows("time", ("x",), "x").check(schema, "w")
