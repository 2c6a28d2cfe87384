import csv as standard
import datetime as dt
import gzip
import io
import pickle

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.sources import csv, lines
from lepton_tasks.data.sources.csv import Csv


def written(folder, files=None, **more):
    for name, content in {**(files or {}), **more}.items():
        path = folder / "t" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def read(source):
    """All rows, and all rejects, each with its file."""
    batches = [(piece, *batch) for piece in source.pieces() for batch in pickle.loads(pickle.dumps(piece)).read()]
    schema = source.schema()
    assert all(rows.schema == schema for _, rows, _ in batches)
    refused = [(piece.origin.rpartition("/")[2], *line) for piece, _, lines in batches for line in lines.iter_rows()]
    return pl.concat(rows for _, rows, _ in batches), refused


def test_types_are_told_by_the_values_and_codes_stay_text(tmp_path):
    content = (
        "n,x,b,day,time,zip,big,s,empty\n"
        "1,2.5,true,2026-01-02,2026-01-02T03:04:05,01234,123456789012345678901,a,\n"
        "-2,1e3,False,2026-01-03,2026-01-02 03:04:05.25,99999,1,,\n"
    )
    rows, refused = read(Csv("t", written(tmp_path, a=content)))
    assert refused == []
    assert rows.rows() == [
        (
            1,
            2.5,
            True,
            dt.date(2026, 1, 2),
            dt.datetime(2026, 1, 2, 3, 4, 5),
            "01234",
            "123456789012345678901",
            "a",
            None,
        ),
        (-2, 1e3, False, dt.date(2026, 1, 3), dt.datetime(2026, 1, 2, 3, 4, 5, 250_000), "99999", "1", None, None),
    ]


def test_times_with_a_zone_are_in_utc(tmp_path):
    times = ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00", "2026-01-02 05:04:05.5+0200", "2026-01-02T02:04-01"]
    rows, refused = read(Csv("t", written(tmp_path, a="\n".join(["time", *times, "2026-01-02T03:04:05"]) + "\n")))
    moment = dt.datetime(2026, 1, 2, 3, 4, 5)
    assert refused == []
    assert rows["time"].to_list() == [
        moment,
        moment,
        moment.replace(microsecond=500_000),
        moment.replace(second=0),
        moment,
    ]


def test_a_value_of_another_type_is_refused_by_its_line_and_never_null(tmp_path):
    content = 'age,note\n31,"two\nlines"\n\n32,b\nunknown,c\n33.5,"d, and\r\nmore"\n,e\n'
    rows, refused = read(Csv("t", written(tmp_path, a=content), types={"age": "int"}))
    assert rows.rows() == [(31, "two\nlines"), (32, "b"), (None, "e")]
    assert refused == [
        ("a.csv", 6, "unknown,c", "column 'age': 'unknown' is not int"),
        ("a.csv", 7, '33.5,"d, and\r\nmore"', "column 'age': '33.5' is not int"),
    ]


def test_a_record_with_too_few_or_too_many_fields_is_refused_by_its_line(tmp_path):
    rows, refused = read(Csv("t", written(tmp_path, a="a,b\n1,2\n3\n4,5,6\n7,8\n9,\n")))
    assert rows.rows() == [(1, 2), (7, 8), (9, None)]
    assert refused == [("a.csv", 3, "3", "1 field, not 2"), ("a.csv", 4, "4,5,6", "3 fields, not 2")]


def test_signs_in_names_of_columns_and_folders_are_no_patterns(tmp_path):
    folder = tmp_path / "a [1]*"
    folder.mkdir()
    rows, refused = read(Csv("t", written(folder, a='"{n}",s\n1,x\nmany,y\n'), types={"{n}": "int"}))
    assert rows.rows() == [(1, "x")]
    assert [reason for *_, reason in refused] == ["column '{n}': 'many' is not int"]


def test_missing_values_are_what_the_user_says(tmp_path):
    rows, refused = read(Csv("t", written(tmp_path, a='n,s\n1,?\n?,NA\n"?",x\n'), missing=("?", "NA")))
    assert rows.rows() == [(1, None), (None, None), (None, "x")]
    assert refused == []


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_told_by_the_first_records(tmp_path, delimiter):
    content = "name,text\n" + "a,Well; now| then\n" * 3 + "b,so\n"
    content = "\n".join(delimiter.join([name, f'"{text}"']) for name, text in standard.reader(io.StringIO(content)))
    rows, _ = read(Csv("t", written(tmp_path, a=content)))
    assert rows.columns == ["name", "text"]
    assert rows["text"].to_list() == ["Well; now| then"] * 3 + ["so"]


def test_a_wrong_delimiter_is_told(tmp_path):
    with pytest.raises(DataError) as error:
        Csv("t", written(tmp_path, a="a,b,c\n1,2,3\n"), delimiter=";").schema()
    assert str(error.value) == (
        f"{tmp_path}/t/a.csv: parted at ';', there is one column, 'a,b,c'; at ',' there are 3. "
        "Write `delimiter: ','` in `data.source.params`, or leave it out."
    )
    content = "a;b;c\n" + "1,5;2\n" * 10  # decimal commas: the header has no ',', the records have
    with pytest.raises(DataError, match=r"one column, 'a;b;c'; at ';' there are 3"):
        Csv("t", written(tmp_path, a=content), delimiter=",").schema()
    with pytest.raises(
        DataError, match=r"10 of the first 10 records are no rows, as line 2: 2 fields, not 3.*delimiter"
    ):
        Csv("t", tmp_path, delimiter=";").schema()


def test_a_file_without_a_header_gets_its_columns_named(tmp_path):
    rows, _ = read(Csv("t", written(tmp_path, a="\ufeff1,x\n2,y\n"), columns=("n", "s")))
    assert rows.rows(named=True) == [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]
    with pytest.raises(DataError, match=r"a.csv: the first record has 2 fields, but 3 columns are named"):
        Csv("t", tmp_path, columns=("n", "s", "x")).schema()


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert read(Csv("t", written(tmp_path, a="\ufeffn,s\n2,y\n")))[0].rows(named=True) == [{"n": 2, "s": "y"}]


def test_whole_numbers_and_fractions_are_fractions_and_columns_may_come_in_another_order(tmp_path):
    source = Csv("t", written(tmp_path, a="n,s\n1,x\n", b="s,n\ny,2.5\n", c="n,s\n,z\n"))
    assert source.schema() == {"n": pl.Float64, "s": pl.String}
    assert read(source)[0].rows() == [(1.0, "x"), (2.5, "y"), (None, "z")]


def test_files_that_disagree_on_a_type_are_named_with_the_way_out(tmp_path):
    folder = written(tmp_path, {f"part-{i}": "n,s\n1,x\n" for i in range(20)} | {"part-7": "n,s\none,x\n"})
    with pytest.raises(DataError) as error:
        Csv("t", folder).schema()
    assert str(error.value) == (
        f"{folder}/t/part-7.csv: column 'n' holds text here, but int in {folder}/t/part-0.csv. "
        "Declare it: `types: {n: text}` in `data.source.params`."
    )
    rows, refused = read(Csv("t", folder, types={"n": "int"}))
    assert len(rows) == 19
    assert refused == [("part-7.csv", 2, "one,x", "column 'n': 'one' is not int")]


def test_a_file_that_lacks_a_column_or_has_one_more_is_named(tmp_path):
    written(tmp_path, a="n,s\n1,x\n", b="n\n2\n")
    with pytest.raises(DataError, match=r"/t/b.csv: no column 's', which .*/t/a.csv has. All files of a table"):
        Csv("t", tmp_path).schema()
    written(tmp_path, b="n,s,more\n2,y,1\n")
    with pytest.raises(DataError, match=r"/t/a.csv: no column 'more', which .*/t/b.csv has"):
        Csv("t", tmp_path).schema()


def test_a_declared_column_that_is_not_there_is_a_mistake_of_the_use_case(tmp_path):
    with pytest.raises(ConfigError, match=r"params.types.agee: no column 'agee'. Did you mean 'age'\?"):
        Csv("t", written(tmp_path, a="age\n1\n"), types={"agee": "int"}).schema()


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a.csv: the header names 'n' 2 times. Rename"):
        Csv("t", written(tmp_path, a="n,s,n\n1,x,2\n")).schema()


@pytest.mark.parametrize("name", ["_row", "__x"])
def test_a_name_that_the_stages_use_themselves_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"the column name '{name}' is reserved"):
        Csv("t", written(tmp_path, a=f"n,{name}\n1,2\n")).schema()


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_named(tmp_path, content):
    with pytest.raises(DataError, match=r"/t/b.csv: the file is empty. Remove it"):
        Csv("t", written(tmp_path, a="n\n1\n", b=content)).schema()


def test_lines_that_end_in_a_carriage_return_alone_are_told(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\r1,2\r3,4\r")
    with pytest.raises(DataError, match=r"t.csv: its lines end with a carriage return alone.* tr '"):
        Csv("t.csv", tmp_path).schema()


@pytest.mark.parametrize(("text", "number"), [(",a\n0,1\n", 1), ("a,b,\n1,2,\n", 3)])
def test_a_column_without_a_name_is_told_by_its_number(tmp_path, text, number):
    with pytest.raises(DataError, match=rf"a.csv: column {number} has no name, .*index=False"):
        Csv("t", written(tmp_path, a=text)).schema()


def test_a_file_with_a_header_alone_has_no_rows(tmp_path):
    rows, refused = read(Csv("t", written(tmp_path, a="n,s\n", b="n,s\n1,x\n")))
    assert rows.rows() == [(1, "x")]
    assert refused == []


def test_a_line_in_another_encoding_is_refused_and_the_others_are_not(tmp_path):
    content = b"".join(b"n%d,caf\xc3\xa9\n" % i for i in range(5)) + b"x,caf\xe9\n" + b"y,th\xc3\xa9\n"
    rows, refused = read(Csv("t", written(tmp_path, a=b"n,s\n" + content)))
    assert rows["s"].to_list() == ["café"] * 5 + ["thé"]
    assert refused == [("a.csv", 7, "x,caf\\xe9", "byte 0xe9 at 5 is not utf-8")]


def test_a_file_in_another_encoding_is_refused_with_the_way_out(tmp_path):
    written(tmp_path, a="n,s\n" + "1,café\n" * 9)
    written(tmp_path, b=("n,s\n" + "1,café\n" * 9).encode("latin-1"))
    with pytest.raises(
        DataError, match=r"/t/b.csv: 9 of the first 9 records are no rows, as line 2: .* 0xe9 .*`encoding`"
    ):
        Csv("t", tmp_path).schema()
    rows, _ = read(Csv("t/b.csv", tmp_path, encoding="latin-1"))
    assert rows["s"].unique().to_list() == ["café"]


def test_encodings_that_cannot_be_read_by_line_are_refused(tmp_path):
    written(tmp_path, a="n\n1\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"is encoded as UTF-16. Convert it"):
        Csv("t", tmp_path).schema()
    with pytest.raises(ConfigError, match=r"params.encoding: files in 'utf-16' cannot be read line by line"):
        Csv("t", tmp_path, encoding="utf-16")
    with pytest.raises(ConfigError, match="'klingon' is not an encoding"):
        Csv("t", tmp_path, encoding="klingon")


def test_a_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path):
    content = "n,s\n1,x\n2,y\n" + '3,"never\n' + "4,z\n" * 5
    source = Csv("t", written(tmp_path, a=content))
    with pytest.raises(
        DataError, match=r"a.csv: a record from line 4 on does not end: a quote is not closed.*quote: null"
    ):
        read(source)
    rows, refused = read(Csv("t", tmp_path, quote=None))
    assert rows["s"].to_list() == ["x", "y", '"never', *["z"] * 5]
    assert refused == []


def test_inch_marks_in_fields_without_quotes_are_what_they_are(tmp_path):
    rows, refused = read(Csv("t", written(tmp_path, a='n,s\n1,5" pipe\n2,6" pipe\n3,x\nz,y\n'), types={"n": "int"}))
    assert rows["s"].to_list() == ['5" pipe', '6" pipe', "x"]
    assert [reason for *_, reason in refused] == ["column 'n': 'z' is not int (in lines 2 to 6)"]


FIELDS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1).map(str), st.text("a\"',;\n é", min_size=1, max_size=6))


@settings(max_examples=25)
@given(st.lists(st.lists(FIELDS, min_size=3, max_size=3).filter(any), min_size=1, max_size=30), st.integers(8, 200))
def test_what_python_writes_is_read_whatever_the_size_of_blocks(tmp_path_factory, rows, size):
    folder = tmp_path_factory.mktemp("csv")
    stream = io.StringIO()
    writer = standard.writer(stream, lineterminator="\n", quoting=standard.QUOTE_ALL)
    writer.writerows([["a", "b", "c"], *([field or "" for field in row] for row in rows)])
    (folder / "t.csv").write_text(stream.getvalue())
    texts = dict.fromkeys("abc", "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", size)
        patch.setattr(lines, "_PIECE", 2 * size)
        source = Csv("t.csv", folder, types=texts)
        found, refused = read(source)
    assert found.rows() == [tuple(row) for row in rows]
    assert refused == []


def test_a_large_file_is_read_in_pieces_that_know_their_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 1 << 10)
    monkeypatch.setattr(lines, "_PIECE", 5 << 10)
    body = [f'{i},"line {i}\nmore"' if i % 3 else f"{i},x" for i in range(3_000)]
    body[2_500] = "bad,x"
    source = Csv("t", written(tmp_path, a="n,s\n" + "\n".join(body) + "\n"), types={"n": "int"})
    assert len(source.pieces()) > 8
    rows, refused = read(source)
    assert rows["n"].to_list() == [i for i in range(3_000) if i != 2_500]
    line = 2 + sum(record.count("\n") + 1 for record in body[:2_500])
    assert refused == [("a.csv", line, "bad,x", "column 'n': 'bad' is not int")]


def test_the_state_changes_with_a_file_and_not_by_itself(tmp_path):
    written(tmp_path, a="n\n1\n")
    before = Csv("t", tmp_path).state()
    assert Csv("t", tmp_path).state() == before
    written(tmp_path, a="n\n12\n")
    assert Csv("t", tmp_path).state() != before


def test_a_packed_file_is_read_and_one_cut_short_is_named(tmp_path):
    data = gzip.compress(("n\n" + "\n".join(map(str, range(50_000)))).encode())
    (tmp_path / "a.csv.gz").write_bytes(data)
    assert read(Csv("a.csv.gz", tmp_path))[0]["n"].sum() == sum(range(50_000))
    (tmp_path / "a.csv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a.csv.gz: cannot be read to its end: Compressed file ended"):
        read(Csv("a.csv.gz", tmp_path))


WHOLE = '|7| 8 |\t9|+5|007|-0|0x1F|0X1f|1_0|-|x| |NA| NA|9223372036854775808|\u00a03|"4"'
FRACTIONS = "1.5|1.|.5|1e5|00.5|nan|NaN|nan(1)|inf|-inf|Infinity|+inf|1e400"
fields = st.sampled_from(f"{WHOLE}|{FRACTIONS}".split("|"))


@settings(max_examples=60)
@given(st.lists(st.tuples(fields, fields), min_size=1, max_size=6))
def test_numbers_are_what_they_are_when_each_text_is_looked_at_by_itself(tmp_path_factory, rows):
    content = "".join(f"{a},{b},t\n" for a, b in rows)
    folder = written(tmp_path_factory.mktemp("csv"), a="n,f,t\n1,0.5,t\n" + content + "2,0.5,t\n" * 20)
    (piece,) = Csv("t", folder, types={"n": "int", "f": "float"}).pieces()
    quick = [frame for frames in piece.read() for frame in frames]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "_QUICK", {})
        slow = [frame for frames in piece.read() for frame in frames]
    assert all(one.equals(other, null_equal=True) for one, other in zip(quick, slow, strict=True))
    assert sum(map(len, quick)) == len(rows) + 21
