import pickle

import polars as pl
import pytest
from tiny_tables import split_on_disk, table_on_disk

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.tables.rows import ROW


def doubled(frame):
    return frame.with_columns(pl.col("a") * 2, __hidden=pl.lit(1))


@pytest.fixture
def rows(tmp_path):
    frame = pl.DataFrame({"a": range(20), "b": [str(i) for i in range(20)]})
    return table_on_disk(frame, tmp_path)


def test_a_split_shows_its_rows_only_and_changes_are_made_when_they_are_read(rows, tmp_path):
    test = split_on_disk(rows, [i % 3 for i in range(20)], tmp_path)["test"].changed(doubled)
    frame = pl.concat(test.select(["a"]).frames())
    assert frame[ROW].to_list() == [2, 5, 8, 11, 14, 17]
    assert frame["a"].to_list() == [4, 10, 16, 22, 28, 34]
    assert frame.columns == [ROW, "a"]


def test_what_steps_keep_to_themselves_is_no_column(rows):
    assert list(rows.changed(doubled).schema) == ["a", "b"]


def test_parts_are_mapped_in_order_and_report_their_rows(rows, tmp_path):
    seen = []
    ctx = RunContext.local(tmp_path)
    object.__setattr__(ctx, "on_progress", seen.append)
    assert list(rows.map(sum_of_a, ctx)) == [sum(range(7)), sum(range(7, 14)), sum(range(14, 20))]
    assert (seen[-1].done, seen[-1].total) == (20, 20)


def sum_of_a(frame):
    return frame["a"].sum()


def test_rows_travel_to_workers(rows, tmp_path):
    test = split_on_disk(rows, [2] * 20, tmp_path)["test"].changed(doubled)
    assert pl.concat(pickle.loads(pickle.dumps(test)).frames()).equals(pl.concat(test.frames()))


def test_a_part_that_went_away_is_named(rows, tmp_path):
    (tmp_path / "000007.parquet").unlink()
    with pytest.raises(DataError, match=r"000007\.parquet"):
        list(rows.map(sum_of_a, RunContext.local(tmp_path)))


def test_a_part_cut_short_is_named(rows, tmp_path):
    path = tmp_path / "000007.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"000007\.parquet"):
        list(rows.map(sum_of_a, RunContext.local(tmp_path)))
