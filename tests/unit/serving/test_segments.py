import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.serving.observing.parquet import parquet
from lepton_tasks.serving.observing.segments import COLUMNS, as_record, as_row, read_segments, seal

SCHEMA = {"t": "time", "i": "int", "f": "float", "s": "text"}
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "t": st.none() | st.integers(0, 2**60),
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(allow_nan=False),
        "s": st.none() | st.text(),
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, max_size=40))
def test_two_readers_read_what_was_written(rows):
    data = parquet(SCHEMA, rows)
    expected = [{name: row.get(name) for name in SCHEMA} for row in rows]
    table = pq.read_table(pa.BufferReader(data))
    assert table.schema.types == [pa.timestamp("us", tz="UTC"), pa.int64(), pa.float64(), pa.string()]
    plain = table.set_column(0, "t", table["t"].cast(pa.int64()))
    assert plain.to_pylist() == [{**row, "s": _encoded(row["s"])} for row in expected]
    assert pl.read_parquet(data)["i"].to_list() == [row["i"] for row in expected]


def _encoded(text):
    return None if text is None else text.encode("utf-8", "replace").decode()


RECORDS = [
    {"time": 1764161730.123457, "status": 200, "seconds": 0.01, "label": "cat", "values": {"age": 3, "city": None}},
    {"time": 1764161730.5, "label": 7, "odd": [1, 2]},
    {"time": 2.0, "label": ["a", "b"], "status": "none", "probability": True},
    {"time": 3.0, "values": {}},
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_comes_back_as_it_was(record):
    row = as_row(record)
    data = parquet(COLUMNS, [row])
    table = pq.read_table(pa.BufferReader(data))
    (read,) = table.set_column(0, "time", table["time"].cast(pa.int64())).to_pylist()
    assert as_record(read) == record
    assert read["label"] is None or isinstance(read["label"], str)


def test_a_crash_between_sealing_and_removing_doubles_nothing(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text('{"time": 1.0}\n{"time": 2.0}\n{"ti')
    lines = live.read_bytes()
    assert seal(live) == tmp_path / "5-0.parquet"
    live.write_bytes(lines)
    (tmp_path / ".6-0.parquet").write_bytes(b"torn")
    assert [record["time"] for record in read_segments(tmp_path, 0.0)] == [1.0, 2.0]


def test_a_file_that_is_sealed_while_it_is_looked_for_is_read_all_the_same(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text('{"time": 1.0}\n')
    records = read_segments(tmp_path, 0.0)
    (tmp_path / "4-0.jsonl").write_text('{"time": 0.5}\n')
    assert next(records)["time"] == 0.5
    seal(live)
    assert [record["time"] for record in records] == [1.0]
