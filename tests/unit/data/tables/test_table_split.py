import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import table_on_disk

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.data.tables.split_assignment import assign_splits
from lepton_tasks.data.tables.split_order import POSITION, STRATUM, split_order


def splits_of(frame, folder, *, label="label", rows_per_part=40, seed=0, **split):
    """The split code of each row."""
    rows = table_on_disk(frame, folder, rows_per_part=rows_per_part)
    data = {"source": "x", "label": label, "split": split}
    use_case = parse_use_case({"name": "tiny", "data": data, "features": "table"}, where="tiny.yaml")
    placed = rows.changed(split_order(use_case, rows, seed=seed)).select([STRATUM, POSITION])
    codes = np.full(len(frame), 255)
    aside = Path(tempfile.mkdtemp(dir=folder))
    for places, assigned in assign_splits(placed, use_case.data.split, RunContext.local(folder), aside):
        codes[places] = assigned
    assert (codes < 255).all()
    return codes


@settings(max_examples=20)
@given(st.lists(st.sampled_from("aab"), min_size=8, max_size=120), st.integers(0, 3))
def test_stratified_splits_are_exact_for_every_class(tmp_path_factory, labels, seed):
    labels = ["a"] * 3 + ["b"] * 3 + labels
    frame = pl.DataFrame({"label": labels})
    codes = splits_of(frame, tmp_path_factory.mktemp("rows"), method="stratified", seed=seed)
    for name in "ab":
        mine = codes[np.array(labels) == name]
        test = min(max(1, round(len(mine) * 0.15)), len(mine) - 2)
        validation = min(max(1, round(len(mine) * 0.15)), len(mine) - test - 1)
        assert [int((mine == code).sum()) for code in (0, 1, 2)] == [len(mine) - test - validation, validation, test]


def test_another_seed_gives_another_split_and_the_same_seed_the_same(tmp_path):
    frame = pl.DataFrame({"label": ["a", "b"] * 50})
    one, again, other = (splits_of(frame, tmp_path, method="stratified", seed=seed) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_parts_of_another_size_give_the_same_split(tmp_path):
    frame = pl.DataFrame({"label": ["a", "b"] * 50})
    (tmp_path / "other").mkdir()
    one = splits_of(frame, tmp_path, method="stratified")
    assert (one == splits_of(frame, tmp_path / "other", method="stratified", rows_per_part=13)).all()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 12), min_size=30, max_size=100))
def test_a_group_is_never_on_both_sides_of_the_line(tmp_path_factory, groups):
    groups = [*range(12), *groups]
    frame = pl.DataFrame({"label": [0.5] * len(groups), "who": groups})
    codes = splits_of(frame, tmp_path_factory.mktemp("rows"), method="group", column="who")
    for group in set(groups):
        assert len(set(codes[np.array(groups) == group])) == 1


@settings(max_examples=20)
@given(st.lists(st.integers(-1000, 1000), min_size=10, max_size=100, unique=True))
def test_nothing_later_than_a_test_row_is_learned_from(tmp_path_factory, times):
    frame = pl.DataFrame({"at": [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=t) for t in times], "label": 1.0})
    codes = splits_of(frame, tmp_path_factory.mktemp("rows"), method="time", column="at")
    at = np.array(times)
    assert at[codes == 0].max() < at[codes == 1].min()
    assert at[codes == 1].max() < at[codes == 2].min()


def test_equal_times_stay_together(tmp_path):
    frame = pl.DataFrame({"at": [1] * 50 + [2] * 10 + [3] * 40, "label": 1.0})
    codes = splits_of(frame, tmp_path, method="time", column="at")
    assert [set(codes[np.array(frame["at"]) == at]) for at in (1, 2, 3)] == [{0}, {1}, {2}] or len(set(codes)) < 3


def test_by_hash_a_row_stays_where_it_is_when_others_come(tmp_path):
    ids = pl.Series("id", range(2_000)).cast(pl.String)
    (tmp_path / "more").mkdir()
    few = splits_of(pl.DataFrame({"id": ids[:500], "label": 1.0}), tmp_path, method="hash", column="id")
    many = splits_of(pl.DataFrame({"id": ids, "label": 1.0}), tmp_path / "more", method="hash", column="id")
    assert (many[:500] == few).all()
    assert abs((many == 2).mean() - 0.15) < 0.03


def test_by_file_the_rows_of_one_file_stay_together(tmp_path):
    codes = splits_of(pl.DataFrame({"label": [1.0] * 400}), tmp_path, method="file", rows_per_part=20)
    assert all(len(set(codes[start : start + 20])) == 1 for start in range(0, 400, 20))
    assert set(codes) == {0, 1, 2}


def test_a_row_without_label_is_an_error_that_names_the_step(tmp_path):
    with pytest.raises(DataError, match=r"1 rows of a part have no label.*`labels`"):
        splits_of(pl.DataFrame({"label": ["a"] * 9 + [None]}), tmp_path, method="stratified")


def test_a_class_too_small_for_three_splits_is_named(tmp_path):
    with pytest.raises(DataError, match="'rare' has 2"):
        splits_of(pl.DataFrame({"label": ["a"] * 20 + ["rare"] * 2}), tmp_path, method="stratified")


def test_a_missing_column_gets_the_closest_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no column 'grup'.*Did you mean 'group'"):
        splits_of(pl.DataFrame({"label": ["a"], "group": [1]}), tmp_path, method="group", column="grup")


def test_text_has_no_order_in_time(tmp_path):
    with pytest.raises(ConfigError, match="'at' is of type String"):
        splits_of(pl.DataFrame({"label": ["a"], "at": ["2024"]}), tmp_path, method="time", column="at")


def test_the_last_of_each_group_is_tested_on_and_the_one_before_it_chosen_by(tmp_path):
    frame = pl.DataFrame({"label": ["x"] * 7, "position": [-2, -1, 0, -3, -2, -1, 0]})
    codes = splits_of(frame, tmp_path, label=None, method="last", column="position", rows_per_part=3)
    assert codes.tolist() == [0, 1, 2, 0, 0, 1, 2]
