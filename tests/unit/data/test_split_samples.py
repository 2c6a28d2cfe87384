import pyarrow as pa
import pytest

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split_samples import split_samples


def rows(labels, **columns):
    """Rows, with distinct content by default."""
    names = [f"c{i}" for i in range(len(labels))]
    table = {"content_sha256": names, "label": pa.array(labels, pa.string()), "uri": [f"/{name}.jpg" for name in names]}
    return pa.table(table | columns)


def split(table, method="stratified", column=None):
    return split_samples(table, Split(method=method, column=column), seed=0)


def apart(table, splits, column):
    """Column values that occur in two splits."""
    pairs = set(zip(table[column].to_pylist(), splits, strict=True))
    values = [value for value, _ in pairs if value is not None]
    return {value for value in values if values.count(value) > 1}


@pytest.mark.parametrize(
    ("method", "column"),
    [("stratified", None), ("random", None), ("file", None), ("group", "person"), ("hash", "uri"), ("time", "time_s")],
)
def test_neither_equal_content_nor_what_looks_alike_leaks_whatever_the_method(method, column):
    count = 320
    table = rows(
        [["cat", "dog"][i // 8 % 2] for i in range(count)],
        content_sha256=[f"c{i - (i % 30 == 1)}" for i in range(count)],
        alike=[f"a{i // 2}" if i % 20 < 2 else None for i in range(count)],
        person=[f"p{i // 4}" for i in range(count)],
        group=[f"g{i // 8}" if i % 5 else None for i in range(count)],
        time_s=[float(i) for i in range(count)],
    )
    splits = split(table, method, column)
    assert set(splits) == {"train", "validation", "test"}
    for bond in ("content_sha256", "alike", "group"):
        assert apart(table, splits, bond) == set()
    if method == "group":
        assert apart(table, splits, "person") == set()


def test_frames_of_one_file_stay_together():
    table = rows([None] * 60, uri=[f"/day{i // 6}.avi#frame={i}" for i in range(60)])
    splits = split(table, "file")
    assert [len(set(splits[i : i + 6])) for i in range(0, 60, 6)] == [1] * 10


def test_what_comes_latest_is_tested_on():
    table = rows([None] * 100, time_s=[float(i) for i in range(99, -1, -1)])
    assert split(table, "time", "time_s") == ["test"] * 15 + ["validation"] * 15 + ["train"] * 70


def test_a_class_of_one_picture_is_named_with_the_way_out():
    with pytest.raises(DataError, match=r"'bird' has 1; a class needs 3.*Add samples to the class, or remove it"):
        split(rows(["bird"] + ["cat"] * 10 + ["dog"] * 10))


def test_copies_do_not_make_a_class_large_enough():
    table = rows(["bird"] * 5 + ["cat"] * 10, content_sha256=["same"] * 5 + [f"c{i}" for i in range(10)])
    with pytest.raises(DataError, match="'bird' has 1"):
        split(table)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat"] * 9, "only one class, 'cat'"),
        (["cat"] * 8 + [None], "1 rows have no label"),
        ([None] * 9, r"data.split.method: no row has a label.*Choose random"),
    ],
)
def test_what_cannot_be_stratified_is_refused(labels, message):
    with pytest.raises(DataError, match=message):
        split(rows(labels))


def test_without_strata_a_class_that_misses_a_split_is_named():
    with pytest.raises(DataError, match=r"'rare' is not in .*stratified"):
        split(rows(["rare"] * 3 + ["cat"] * 500), "random")


def test_a_class_that_cannot_be_learned_is_named_whatever_the_method():
    table = rows(["cat"] * 90 + ["late"] * 10, time_s=[float(i) for i in range(100)])
    with pytest.raises(DataError, match=r"'late' is not in train"):
        split(table, "time", "time_s")


def test_a_column_that_is_not_there_is_named_with_the_closest_one():
    with pytest.raises(ConfigError, match=r"data.split.column: there is no column 'time'. Did you mean 'time_s'"):
        split(rows([None] * 9, time_s=[0.0] * 9), "time", "time")


def test_a_missing_value_of_the_column_is_counted():
    with pytest.raises(DataError, match="2 rows have no 'group'"):
        split(rows([None] * 9, group=["a", None] + ["b"] * 6 + [None]), "group", "group")
