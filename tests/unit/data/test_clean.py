import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.clean import Duplicates, TooSmall, Undecodable, Unlabelled, probe_rows, refuse_rows

STEPS = [
    ("undecodable", Undecodable()),
    ("too_small", TooSmall(8)),
    ("unlabelled", Unlabelled()),
    ("duplicates", Duplicates()),
]


def probes(*rows):
    """Rows of (label, content, size, error)."""
    table = [
        {
            "sample_id": f"s{i}",
            "uri": f"/data/s{i}",
            "label": label,
            "content_sha256": content,
            "width": size,
            "height": size and size + 1,
            "error": error,
        }
        for i, (label, content, size, error) in enumerate(rows)
    ]
    types = {name: pa.string() for name in table[0]} | {"width": pa.int64(), "height": pa.int64()}
    return pa.Table.from_pylist(table, schema=pa.schema(types.items()))


def reasons(table):
    return [step.refuse(table) for _, step in STEPS]


def test_each_step_names_its_reason():
    table = probes(("cat", None, None, "truncated"), ("cat", "a", 7, None), (" ", "b", 9, None), ("cat", "c", 9, None))
    assert reasons(table) == [
        ["truncated", None, None, None],
        [None, "7 x 8 pixels, less than 8 on a side", None, None],
        [None, None, "no label", None],
        [None, None, None, None],
    ]


def test_the_first_of_equal_pictures_stays():
    table = probes(*[("cat", "a", 9, None)] * 3)
    assert Duplicates().refuse(table) == [None, "same content as s0", "same content as s0"]


def test_all_of_a_picture_with_two_labels_go():
    table = probes(("cat", "a", 9, None), ("dog", "a", 9, None), ("cat", "a", 9, None), ("dog", "b", 9, None))
    assert Duplicates().refuse(table) == [
        "conflicting labels: same content as s1, labelled 'dog'",
        "conflicting labels: same content as s0, labelled 'cat'",
        "conflicting labels: same content as s1, labelled 'dog'",
        None,
    ]


rows = st.lists(
    st.tuples(
        st.sampled_from(["cat", "dog", "", None]),
        st.sampled_from([None, "a", "b", "c", "d", "e"]),
        st.integers(1, 20),
        st.none(),
    ).map(lambda row: row if row[1] else (row[0], None, None, "cannot be decoded")),
    min_size=1,
    max_size=40,
)


@given(rows=rows, order=st.permutations(STEPS))
def test_counts_add_up_and_nothing_bad_is_kept_whatever_the_order_of_the_steps(rows, order):
    table = probes(*rows)
    keep, rejected, report = refuse_rows(table, order)
    assert report["rows_in"] == len(rows) == report["rows_kept"] + report["rows_refused"]
    assert report["rows_kept"] == sum(keep)
    assert report["rows_refused"] == rejected.num_rows == sum(step["refused"] for step in report["steps"])
    kept = table.filter(pa.array(keep)).to_pylist()
    gone = rejected.to_pylist()
    assert sorted([row["sample_id"] for row in (*kept, *gone)]) == sorted(table["sample_id"].to_pylist())
    assert all(row["reason"] and row["step"] for row in gone)
    assert all(row["label"] and row["width"] >= 8 and row["error"] is None for row in kept)
    contents = [row["content_sha256"] for row in kept]
    assert len(contents) == len(set(contents))


def test_a_later_step_does_not_see_what_an_earlier_one_refused():
    table = probes(("cat", "a", 3, None), ("dog", "a", 9, None))
    keep, rejected, report = refuse_rows(table, [("too_small", TooSmall(8)), ("duplicates", Duplicates())])
    assert keep == [False, True]
    assert rejected["step"].to_pylist() == ["too_small"]
    assert [step["rows_in"] for step in report["steps"]] == [2, 1]
    assert report["steps"][0]["examples"][0]["reason"] == "3 x 4 pixels, less than 8 on a side"


def length(payload):
    if payload == b"bad":
        raise DataError("bad bytes.")
    return {"content_sha256": payload.hex(), "length": len(payload)}


def raw(name, data):
    from hashlib import sha256

    return {"sample_id": name, "uri": name, "label": "x", "data": data, "sha256": sha256(data).hexdigest()}


def test_probes_hold_what_was_found_or_the_error_and_no_payload(tmp_path):
    chunks = [[raw("a", b"bad")], [raw("b", b"good"), {**raw("c", b""), "sha256": None}]]
    table = probe_rows(length, chunks, RunContext.local(tmp_path), total=3)
    assert "data" not in table.column_names
    assert table["length"].to_pylist() == [None, 4, None]
    assert table["error"].to_pylist() == ["bad bytes.", None, "the file cannot be read."]


def test_bytes_that_changed_after_ingest_stop_the_stage(tmp_path):
    with pytest.raises(DataError, match="changed after it was ingested"):
        probe_rows(length, [[{**raw("a", b"good"), "data": b"else"}]], RunContext.local(tmp_path), total=1)
