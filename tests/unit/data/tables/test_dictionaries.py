import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.data.tables.dictionaries import read_dictionaries, unchanged_text_columns
from lepton_tasks.data.tables.rows import Part, TableRows

texts = st.lists(
    st.none() | st.sampled_from(["", "a", "é", "a longer text than a view holds"]), min_size=1, max_size=30
)


@settings(max_examples=25)
@given(texts, st.integers(1, 7))
def test_rows_are_counted_and_mapped_as_one_by_one(tmp_path_factory, values, group):
    path = str(tmp_path_factory.mktemp("rows") / "a.parquet")
    frame = pl.DataFrame({"a.b": values, "n": range(len(values))}, schema_overrides={"a.b": pl.String})
    frame.write_parquet(path, row_group_size=group)
    first, rows = len(values) // 3, len(values) - len(values) // 3
    mine = frame["a.b"][first : first + rows]
    found = read_dictionaries(Part(path, first, rows, 100, "x"), ["a.b"])["a.b"]
    sizes = found.map(pl.col("a.b").str.len_bytes().fill_null(99).alias("size"))
    assert sizes.to_list() == mine.str.len_bytes().fill_null(99).to_list()
    odd = np.arange(1, rows, 2)
    nulls, *counts = found.counts(odd).tolist()
    expected = mine.gather(odd)
    assert nulls == expected.null_count()
    assert {text: count for text, count in zip(found.values, counts, strict=True) if count} == dict(
        expected.drop_nulls().value_counts().iter_rows()
    )


def test_only_text_that_is_in_the_files_lies_there(tmp_path):
    pl.DataFrame({"word": ["x"], "n": [1], "cleaned": ["y "]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"cleaned": ["y"]}).write_ipc(tmp_path / "a.arrow")
    part = Part(str(tmp_path / "a.parquet"), 0, 1, 0, "a", changed=str(tmp_path / "a.arrow"))
    assert unchanged_text_columns(TableRows((part,), 1), ["word", "n", "cleaned", "made"]) == ["word"]
