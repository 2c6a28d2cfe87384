import polars as pl
import pytest

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources import aligned_text
from lepton_tasks.data.sources.aligned_text import AlignedText

COLUMNS = {"en": "*.en.txt", "de": "*.de.txt"}


def written(folder, **texts):
    for name, content in texts.items():
        (folder / f"{name.replace('_', '.')}.txt").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    return folder


def read(source):
    batches = [batch for piece in source.pieces() for batch in piece.read()]
    assert all(rows.schema == source.schema() for rows, _ in batches)
    return pl.concat(rows for rows, _ in batches), pl.concat(lines for _, lines in batches).rows()


@pytest.mark.parametrize("size", [1, 2, 50_000])
def test_lines_of_the_same_number_are_one_row(tmp_path, monkeypatch, size):
    monkeypatch.setattr(aligned_text, "_BATCH_ROWS", size)
    written(tmp_path, a_en="one\ntwo\u2028parts\r\n\nfour", a_de="eins\nzwei\n\nvier\n", b_en="five\n", b_de="fünf\n")
    rows, refused = read(AlignedText(COLUMNS, tmp_path))
    assert rows.rows() == [("one", "eins"), ("two\u2028parts", "zwei"), ("", ""), ("four", "vier"), ("five", "fünf")]
    assert refused == []


def test_files_of_unequal_length_are_named_with_their_lines(tmp_path):
    written(tmp_path, a_en="one\ntwo\nthree\n", a_de="eins\nzwei\n")
    with pytest.raises(DataError, match=r"differ in the number of lines: 3 in .*/a.en.txt, 2 in .*/a.de.txt"):
        read(AlignedText(COLUMNS, tmp_path))


def test_a_file_without_a_counterpart_is_told(tmp_path):
    written(tmp_path, a_en="one\n", b_en="two\n", a_de="eins\n")
    with pytest.raises(DataError, match=r"columns.de: 2 files of 'en', but 1 of 'de'"):
        AlignedText(COLUMNS, tmp_path).pieces()


def test_a_row_with_a_line_in_another_encoding_is_refused(tmp_path):
    written(tmp_path, a_en="one\nfive\nsix\n", a_de=b"eins\nf\xfcnf\nsechs\n")
    rows, refused = read(AlignedText(COLUMNS, tmp_path))
    assert rows.rows() == [("one", "eins"), ("six", "sechs")]
    assert refused == [(2, "five | f\\xfcnf", "byte 0xfc at 1 is not utf-8")]
