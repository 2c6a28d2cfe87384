import datetime as dt

import polars as pl
import pytest

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.tables.steps.series import FillGaps, RegularSeries, Timestamp

START = dt.datetime(2024, 1, 1)


def at(*hours):
    return [START + dt.timedelta(hours=hour) for hour in hours]


def series(hours, **columns):
    return pl.DataFrame({"_row": range(len(hours)), "time": at(*hours), **columns})


def made(step, **columns):
    frame = step.change(pl.LazyFrame(columns)).with_columns(reason=step.refuse()).collect()
    return frame["time"].to_list(), frame["reason"].to_list()


def test_times_of_parts():
    times, reasons = made(
        Timestamp(year="y", month="m", day="d", hour="h"),
        y=[2024, 2024, None, 2023],
        m=[1, 2, 3, 2],
        d=[1, 29, 1, 29],
        h=[5, 0, 0, 0],
    )
    assert times == [dt.datetime(2024, 1, 1, 5), dt.datetime(2024, 2, 29), None, None]
    assert reasons == [None, None, "no such time", "no such time"]


def test_times_of_text_and_of_seconds():
    times, reasons = made(
        Timestamp(text="t", format="%d-%b-%Y %H:%M"), t=[" 26-FEB-1987 15:17", "26-FEB-1987 15:17x", "?"]
    )
    assert times == [dt.datetime(1987, 2, 26, 15, 17), None, None]
    assert reasons[1:] == ["no such time"] * 2
    assert made(Timestamp(text="t", format="%d-%b-%Y %H:%M", exact=False), t=["26-FEB-1987 15:17x"])[1] == [None]
    assert made(Timestamp(seconds="s"), s=[86_400, None])[0] == [dt.datetime(1970, 1, 2), None]


@pytest.mark.parametrize(
    "params", [{}, {"text": "a"}, {"year": "a", "month": "b"}, {"seconds": "a", "text": "b", "format": "%Y"}]
)
def test_a_time_is_made_in_one_way(params):
    with pytest.raises(ConfigError, match="a time is made of"):
        Timestamp(**params)


def test_wrong_columns_are_named():
    with pytest.raises(ConfigError, match="'s' holds String, not numbers"):
        Timestamp(seconds="s").check({"s": pl.String()})
    with pytest.raises(ConfigError, match="'t' holds Int64, not times"):
        RegularSeries("t", "1h").check({"t": pl.Int64()})
    with pytest.raises(ConfigError, match="'w' holds String, not numbers to interpolate"):
        FillGaps(("w",), "t", method="interpolate").check({"t": pl.Datetime(), "w": pl.String()})


def test_missing_steps_are_added_and_repeated_times_refused():
    frame = series([3, 0, 0, 1, 1.5], x=[3.0, 0, 9, 1, 7])
    kept, refused = RegularSeries("time", "1h").apply(frame)
    assert kept["time"].to_list() == at(0, 1, 2, 3)
    assert kept["_row"].to_list() == [1, 3, None, 0]
    assert kept["x"].to_list() == [0, 1, None, 3]
    assert refused.sort("_row").rows() == [
        (2, "same time as an earlier row"),
        (4, "2024-01-01 01:30:00.000000 is no step of 1h"),
    ]


def test_each_group_has_its_own_beginning_and_end():
    frame = series([0, 2, 5, 6], g=["a", "a", "b", "b"])
    kept, refused = RegularSeries("time", "1h", group=("g",)).apply(frame)
    assert list(zip(kept["g"], kept["time"], strict=True)) == list(zip("aaabb", at(0, 1, 2, 5, 6), strict=True))
    assert refused.is_empty()


def test_resampling_averages_and_says_where_rows_went():
    frame = series([0, 0.25, 0.5, 2], x=[1.0, 2, 6, 5], w=["a", "b", "c", "d"])
    kept, refused = RegularSeries("time", "1h", resample=True).apply(frame)
    assert kept.select("_row", "x", "w").rows() == [(0, 3.0, "a"), (None, None, None), (3, 5.0, "d")]
    assert refused.rows() == [(1, "averaged into row 0"), (2, "averaged into row 0")]


def test_one_wrong_time_makes_no_million_rows():
    with pytest.raises(DataError, match=r"2 rows lie between 2024-01-01 00:00:00 and .*: 1,000,001 steps of 1h"):
        RegularSeries("time", "1h").apply(series([0, 1_000_000]))


def test_short_gaps_are_filled_and_long_ones_refused():
    frame = series(range(9), x=[None, 1.0, None, 3, None, None, None, 7, None])
    kept, refused = FillGaps(("x",), "time", limit=2).apply(frame)
    assert kept["_row"].to_list() == [1, 2, 3, 7, 8]
    assert kept["x"].to_list() == [1, 1, 3, 7, 7]
    long = "in a run of 3 rows without x: over 2, or none before"
    assert refused.rows() == [(0, long.replace("3", "1")), (4, long), (5, long), (6, long)]
    kept, _ = FillGaps(("x",), "time", limit=3, method="interpolate").apply(frame)
    assert kept["x"].to_list() == [1, 2, 3, 4, 5, 6, 7]


def test_no_value_flows_from_one_series_to_the_next():
    frame = series([0, 1, 0, 1], g=["a", "a", "b", "b"], x=[1.0, None, None, 4])
    kept, refused = FillGaps(("x",), "time", group=("g",)).apply(frame)
    assert kept.select("g", "x").rows() == [("a", 1.0), ("a", 1.0), ("b", 4.0)]
    assert refused["_row"].to_list() == [2]
    assert kept.columns == frame.columns


def test_a_row_that_was_added_and_not_filled_leaves_no_trace():
    kept, _ = RegularSeries("time", "1h").apply(series([0, 4], x=[1.0, 2.0]))
    kept, refused = FillGaps(("x",), "time", limit=2).apply(kept)
    assert kept["_row"].to_list() == [0, 1]
    assert refused.is_empty()
