import datetime as dt
import json

import polars as pl
import pytest

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources import lines
from lepton_tasks.data.sources.json_lines import JsonLines


def written(folder, *rows, name="a"):
    content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / f"{name}.jsonl").write_text(content)
    return folder


def read(source):
    batches = [batch for piece in source.pieces() for batch in piece.read()]
    assert all(rows.schema == source.schema() for rows, _ in batches)
    return pl.concat(rows for rows, _ in batches), pl.concat(lines for _, lines in batches).rows()


def test_objects_are_rows_and_keys_may_be_missing(tmp_path):
    written(tmp_path, {"n": 1, "s": "007", "t": "2026-01-02T03:04:05"}, {"s": None, "x": [1, 2]}, name="a")
    written(tmp_path, {"n": 2.5, "late": True}, name="b")
    rows, refused = read(JsonLines(".", tmp_path))
    assert refused == []
    assert rows.rows(named=True) == [
        {"n": 1.0, "s": "007", "t": dt.datetime(2026, 1, 2, 3, 4, 5), "x": None, "late": None},
        {"n": None, "s": None, "t": None, "x": [1, 2], "late": None},
        {"n": 2.5, "s": None, "t": None, "x": None, "late": True},
    ]


def test_every_bad_line_is_refused_by_its_number_and_no_other(tmp_path):
    good = [{"n": i, "s": "x"} for i in range(300)]
    lines = [json.dumps(row) for row in good]
    bad = {
        10: '{"n": 1, "s": "x"',
        77: '{"n": "many", "s": "x"}',
        78: '{"n": 1.5}',
        200: "[1, 2]",
        290: '{"n": 1, "n": 2}',
    }
    for number, line in bad.items():
        lines[number] = line
    lines.insert(50, "")
    rows, refused = read(JsonLines(".", written(tmp_path, *lines), types={"n": "int"}))
    assert rows["n"].to_list() == [i for i in range(300) if i not in bad]
    numbers = [number + 1 + (number >= 50) for number in bad]
    assert [(line, text) for line, text, _ in refused] == list(zip(numbers, bad.values(), strict=True))
    reasons = [reason for *_, reason in refused]
    assert reasons[0].startswith("Missing a comma or '}'")
    assert reasons[1] == "Column(/n) changed from number to string"
    assert "couldn't parse:1.5" in reasons[2]
    assert reasons[3:] == ["Column() changed from object to array", "Column(/n) was specified twice"]


def test_a_key_that_no_sample_has_is_refused_and_can_be_declared(tmp_path, monkeypatch):
    monkeypatch.setattr("lepton_tasks.data.sources.json_lines._SAMPLE", 100)
    written(tmp_path, *[{"n": i} for i in range(50)], {"n": 50, "late": "x"})
    rows, refused = read(JsonLines(".", tmp_path))
    assert (len(rows), refused) == (50, [(51, '{"n": 50, "late": "x"}', "unexpected field")])


def test_files_that_disagree_on_a_type_are_named_with_the_way_out(tmp_path):
    written(tmp_path, {"n": 1}, name="a")
    written(tmp_path, {"n": "one"}, name="b")
    with pytest.raises(
        DataError, match=r"/b.jsonl: column 'n' holds text here, but int in .*/a.jsonl. Declare it: `types"
    ):
        JsonLines(".", tmp_path).schema()


def test_other_files_are_named_for_what_they_are(tmp_path):
    (tmp_path / "a.jsonl").write_text('[{"n": 1},\n {"n": 2}]\n')
    with pytest.raises(DataError, match=r"a.jsonl: is one JSON array; expected one object per line. .*jq"):
        JsonLines(".", tmp_path).schema()
    (tmp_path / "a.jsonl").write_text("n,s\n1,x\n2,y\n")
    with pytest.raises(
        DataError, match=r"a.jsonl: 3 of the first 3 lines are no JSON objects, as line 1: Invalid value"
    ):
        JsonLines(".", tmp_path).schema()
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a.jsonl: the file is empty"):
        JsonLines(".", tmp_path).schema()


def test_a_line_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"s": "caf\xc3\xa9"}\n' * 3 + b'{"s": "caf\xe9"}\n')
    rows, refused = read(JsonLines(".", tmp_path))
    assert rows["s"].to_list() == ["café"] * 3
    assert [(line, reason) for line, _, reason in refused] == [(4, "byte 0xe9 at 10 is not utf-8")]
    assert len(read(JsonLines(".", tmp_path, encoding="latin-1"))[0]) == 4


def test_a_large_file_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 1 << 10)
    monkeypatch.setattr(lines, "_PIECE", 5 << 10)
    written(tmp_path, *[{"n": i, "s": 'a "quoted" text'} for i in range(1_000)])
    source = JsonLines("a.jsonl", tmp_path)
    assert len(source.pieces()) > 5
    assert read(source)[0]["n"].to_list() == list(range(1_000))


def test_lists_in_hundreds_of_lists_are_told(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"x": ' + "[" * 600 + "1" + "]" * 600 + "}\n")
    with pytest.raises(DataError, match=r"t.jsonl: contains lists or objects nested hundreds deep"):
        JsonLines("t.jsonl", tmp_path).schema()
