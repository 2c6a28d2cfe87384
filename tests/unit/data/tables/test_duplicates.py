import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.tables import duplicates
from lepton_tasks.data.tables.rejections import CODE
from lepton_tasks.data.tables.rows import ROW

keys = st.lists(st.tuples(st.integers(0, 5) | st.none(), st.sampled_from("ab") | st.none()), min_size=1, max_size=60)


def found(values, folder, part=7, refused=(), gone=()):
    """Duplicates by row; `refused` rows have a code, `gone` are absent."""
    frame = pl.DataFrame(values, schema={"a": pl.Int64, "b": pl.String}, orient="row").with_row_index(ROW)
    frame = frame.with_columns(pl.col(ROW).cast(pl.Int64), *duplicates.key_expressions([pl.col("a"), pl.col("b")]))
    frame = frame.with_columns(pl.col(ROW).is_in(list(refused)).cast(pl.UInt8).alias(CODE))
    for start in range(0, len(frame), part):
        rows = frame.slice(start, part)
        duplicates.write_keys(folder, rows.filter(~pl.col(ROW).is_in(list(gone))))
    return dict(duplicates.find_duplicates(folder, RunContext.local(folder)).iter_rows())


@settings(max_examples=20)
@given(keys)
def test_equal_rows_are_found_over_all_parts_and_buckets(tmp_path_factory, values):
    first: dict = {}
    expected = {}
    for row, key in enumerate(values):
        if key == (None, None):
            continue  # empty rows are never duplicates
        if key in first:
            expected[row] = first[key]
        first.setdefault(key, row)
    folder = tmp_path_factory.mktemp("keys")
    assert found(values, folder) == expected


def test_buckets_split_the_keys_without_losing_any(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_BUCKET_ROWS", 10)
    values = [(i % 50, "a") for i in range(200)]
    assert found(values, tmp_path, part=33) == {row: row % 50 for row in range(50, 200)}


def test_rows_that_are_refused_are_no_first_of_others(tmp_path):
    values = [(1, "a"), (2, "a"), (1, "a"), (2, "a"), (3, "b"), (1, "a"), (3, "b"), (2, "a")]
    assert found(values, tmp_path, part=4, refused=[0], gone=[1, 4]) == {5: 2, 7: 3}


def test_rows_whose_first_hashes_are_equal_in_part_are_told_apart_by_the_second(tmp_path):
    rows = pl.DataFrame({ROW: range(9), CODE: [0] * 9, "__key_high": [7] * 9, "__key_low": [1, 2, 3] * 3})
    duplicates.write_keys(tmp_path, rows.cast({CODE: pl.UInt8, "__key_high": pl.UInt64, "__key_low": pl.UInt64}))
    expected = {row: row % 3 for row in range(3, 9)}
    assert dict(duplicates.find_duplicates(tmp_path, RunContext.local(tmp_path)).iter_rows()) == expected


def test_no_rows_have_no_duplicates(tmp_path):
    assert found([(None, None)], tmp_path) == {}
