import polars as pl
import pytest

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.parquet import Parquet

FRAME = pl.DataFrame({"n": [1, 2], "s": ["a", None]})


def read(source):
    frames = [rows for piece in source.pieces() for rows, refused in piece.read() if refused.is_empty()]
    assert all(rows.schema == source.schema() for rows in frames)
    return pl.concat(frames)


def test_local_files_that_are_alike_are_used_where_they_lie(tmp_path):
    for name in ("b", "a", "_hidden", ".hidden"):
        FRAME.write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    source = Parquet(".", tmp_path)
    assert [piece.parquet for piece in source.pieces()] == [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    assert source.schema() == FRAME.schema
    assert read(source).rows() == FRAME.rows() * 2


def test_a_file_of_narrower_types_or_another_order_is_read_into_the_common_ones(tmp_path):
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.select("s", pl.col("n") + 0.5).write_parquet(tmp_path / "b.parquet")
    source = Parquet(".", tmp_path)
    assert [piece.parquet for piece in source.pieces()] == [None, None]
    assert read(source).rows() == [(1.0, "a"), (2.0, None), (1.5, "a"), (2.5, None)]


def test_names_of_folders_are_columns(tmp_path):
    for year in (2025, 2026):
        folder = tmp_path / f"year={year}" / "place=north"
        folder.mkdir(parents=True)
        FRAME.write_parquet(folder / "part.parquet")
    rows = read(Parquet(".", tmp_path))
    assert rows.columns == ["n", "s", "year", "place"]
    assert rows["year"].to_list() == [2025, 2025, 2026, 2026]


def test_a_folder_that_only_some_files_lie_in_is_no_value_for_the_others(tmp_path):
    (tmp_path / "year=2025").mkdir()
    FRAME.write_parquet(tmp_path / "year=2025" / "part.parquet")
    FRAME.write_parquet(tmp_path / "z.parquet")
    FRAME.write_parquet(tmp_path / "a.parquet")
    assert read(Parquet(".", tmp_path))["year"].to_list() == [None, None, 2025, 2025, None, None]


def test_a_value_that_does_not_fit_the_common_type_is_told_with_its_file(tmp_path):
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.with_columns(n=pl.lit(2**64 - 1, pl.UInt64)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        DataError, match=r"/b.parquet: a value is not of the type .*column 'n'.* Give all files the same form"
    ):
        read(Parquet(".", tmp_path))


def test_one_file_of_many_with_another_type_is_named(tmp_path):
    for i in range(20):
        FRAME.write_parquet(tmp_path / f"part-{i:02d}.parquet")
    FRAME.with_columns(pl.col("n").cast(pl.String)).write_parquet(tmp_path / "part-13.parquet")
    with pytest.raises(DataError) as error:
        Parquet(".", tmp_path).schema()
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/part-13.parquet: column 'n' holds text here, but int in {tmp_path}/part-00")
    assert "Give all files the same form" in message


def test_a_file_without_a_column_is_named(tmp_path):
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.drop("s").write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"/b.parquet: no column 's', which .*/a.parquet has"):
        Parquet(".", tmp_path).schema()


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_a_file_cut_short_is_named(tmp_path, keep):
    FRAME.write_parquet(tmp_path / "a.parquet")
    path = tmp_path / "b.parquet"
    FRAME.write_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"/b.parquet: is not a complete Parquet file: .*truncated or of another type"):
        Parquet(".", tmp_path).pieces()
