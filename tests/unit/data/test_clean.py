import hashlib
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.clean import probes as probes_module
from lepton_tasks.data.clean.apply import clean_rows
from lepton_tasks.data.clean.boxes import Boxes
from lepton_tasks.data.clean.duplicates import Duplicates, NearDuplicates
from lepton_tasks.data.clean.labels import Labels, Unlabelled
from lepton_tasks.data.clean.pictures import Blank, TooSmall, Undecodable
from lepton_tasks.data.clean.probes import probe_rows
from lepton_tasks.data.rows import OPTIONAL_COLUMNS

STEPS = [
    ("undecodable", Undecodable()),
    ("too_small", TooSmall(8)),
    ("blank", Blank(0.01)),
    ("unlabelled", Unlabelled()),
    ("labels", Labels(("cat", "dog"))),
    ("boxes", Boxes()),
    ("duplicates", Duplicates()),
    ("near_duplicates", NearDuplicates(2)),
]
SCHEMA = pa.schema(
    {
        "sample_id": pa.string(),
        "uri": pa.string(),
        "label": pa.string(),
        "boxes": OPTIONAL_COLUMNS["boxes"],
        "width": pa.int64(),
        "height": pa.int64(),
        "content_sha256": pa.string(),
        "perceptual_hash": pa.uint64(),
        "contrast": pa.float64(),
        "error": pa.string(),
    }
)


def probes(*rows):
    """Rows that differ from a valid image of 20 x 21 pixels as given; errors have no other values."""
    table = []
    for i, row in enumerate(rows):
        names = {"sample_id": f"s{i}", "uri": f"/data/s{i}", "label": "cat"}
        good = {"width": 20, "height": 21, "content_sha256": f"c{i}", "perceptual_hash": 7**i * 99991, "contrast": 0.2}
        table.append(names | ({} if "error" in row else good) | row)
    return pa.Table.from_pylist(table, schema=SCHEMA)


def box(xmin, ymin, xmax, ymax, label="cell"):
    return {"label": label, "xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("undecodable", {"error": "truncated"}, "truncated"),
        ("too_small", {"width": 7}, "7 x 21 pixels, less than 8 on a side"),
        ("blank", {"contrast": 0.0012}, "blank: contrast 0.0012, less than 0.01"),
        ("unlabelled", {"label": " "}, "no label"),
        ("labels", {"label": "cta"}, "unknown label 'cta'. Did you mean 'cat'? Known: cat, dog."),
        ("labels", {"boxes": [box(0, 0, 9, 9, "dgo")]}, "unknown label 'dgo'. Did you mean 'dog'? Known: cat, dog."),
        ("duplicates", {"content_sha256": "c0"}, "same content as s0"),
        ("near_duplicates", {"perceptual_hash": 99991 ^ 5}, "looks like s0 (2 of 64 bits differ)"),
    ],
)
def test_each_step_names_its_reason_and_refuses_nothing_else(name, row, reason):
    table = probes({}, row, {"label": "dog"})
    for step_name, step in STEPS:
        assert step.refuse(table) == [None, reason if step_name == name else None, None]


def test_all_of_a_picture_with_two_labels_go():
    table = probes(*({"label": label, "content_sha256": "a"} for label in ("cat", "dog", "cat")), {"label": "dog"})
    assert Duplicates().refuse(table) == [
        "conflicting labels: same content as s1, labelled 'dog'",
        "conflicting labels: same content as s0, labelled 'cat'",
        "conflicting labels: same content as s1, labelled 'dog'",
        None,
    ]


def test_near_duplicates_keep_the_first_and_do_not_chain():
    table = probes(*({"perceptual_hash": value} for value in (0b0, 0b11, 0b1111, 0b11)), {"error": "cut"})
    assert NearDuplicates(2).refuse(table) == [
        None,
        "looks like s0 (2 of 64 bits differ)",
        None,  # 4 bits from the retained one
        "looks like s0 (2 of 64 bits differ)",
        None,
    ]
    assert NearDuplicates(1).refuse(table)[3] == "looks like s1 (0 of 64 bits differ)"


def test_near_duplicates_with_another_label_say_so():
    table = probes({"perceptual_hash": 0}, {"perceptual_hash": 1, "label": "dog"})
    assert NearDuplicates().refuse(table)[1] == "looks like s0 (1 of 64 bits differ), labelled 'cat'"


def test_near_duplicates_that_stay_together_are_marked_over_a_chain():
    table = probes(*({"perceptual_hash": value} for value in (0b0, 0b11, 0b1111, 0b111 << 58)), {"error": "cut"})
    revised, notes = NearDuplicates(2, keep="together").revise(table)
    assert revised["alike"].to_pylist() == ["s0", "s0", "s0", "s3", None]
    assert notes == NearDuplicates(2, keep="together").refuse(revised) == [None] * 5


def test_boxes_are_clipped_and_empty_ones_dropped():
    odd = [box(-3, 2, 9, 30), box(5, 5, 6, 9), box(1, 1, 4, 4), box(25, 3, 30, 9), box(float("nan"), 1, 5, 5)]
    table = probes({"boxes": odd}, {"boxes": []}, {"boxes": None}, {"boxes": [box(0, 0, 20, 21)]}, {"error": "cut"})
    revised, notes = Boxes().revise(table)
    assert revised["boxes"].to_pylist() == [
        [box(0, 2, 9, 21), box(1, 1, 4, 4)],
        [],
        None,
        [box(0, 0, 20, 21)],
        None,
    ]
    assert notes == ["of 5 boxes, 3 empty dropped and 1 clipped", None, None, None, None]
    assert Boxes().refuse(revised) == [None] * 5


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (box(-3, 2, 9, 9), "a box beyond 20 x 21 pixels: cell xmin -3, ymin 2, xmax 9, ymax 9"),
        (box(5, 5, 6, 9), "an empty box: cell xmin 5, ymin 5, xmax 6, ymax 9"),
    ],
)
def test_boxes_that_are_not_repaired_refuse_their_row(odd, reason):
    table = probes({"boxes": [box(1, 1, 9, 9), odd]}, {"boxes": [box(1, 1, 9, 9)]}, {})
    step = Boxes(repair=False)
    assert step.revise(table)[0] == table
    assert step.refuse(table) == [reason, None, None]


sides = st.floats(-10, 40) | st.just(float("nan"))
row = st.one_of(
    st.fixed_dictionaries(
        {
            "label": st.sampled_from(["cat", "dog", "cow", "", None]),
            "content_sha256": st.sampled_from("abcdefgh"),
            "perceptual_hash": st.integers(0, 40),
            "width": st.integers(5, 30),
            "contrast": st.sampled_from([0.0, 0.2]),
            "boxes": st.none() | st.lists(st.builds(box, sides, sides, sides, sides, st.none()), max_size=3),
        }
    ),
    st.just({"error": "cut"}),
)


@given(rows=st.lists(row, min_size=1, max_size=40), order=st.permutations(STEPS))
def test_counts_add_up_and_nothing_bad_is_kept_whatever_the_order_of_the_steps(rows, order):
    table = probes(*rows)
    cleaned = clean_rows(table, order)
    report, kept, gone = cleaned.report, cleaned.probes.to_pylist(), cleaned.rejected.to_pylist()
    assert report["rows_in"] == len(rows) == report["rows_kept"] + report["rows_refused"]
    assert (report["rows_kept"], report["rows_refused"]) == (len(kept), len(gone))
    assert report["rows_refused"] == sum(step["refused"] for step in report["steps"])
    assert sorted(row["sample_id"] for row in (*kept, *gone)) == sorted(table["sample_id"].to_pylist())
    assert all(row["reason"] and row["step"] and row["uri"] for row in gone)
    for row in kept:
        assert row["label"] in ("cat", "dog")
        assert row["width"] >= 8
        assert row["error"] is None
        assert row["contrast"] > 0
        for marked in row["boxes"] or ():
            assert 0 <= marked["xmin"] <= marked["xmax"] - 2 <= row["width"] - 2
            assert 0 <= marked["ymin"] <= marked["ymax"] - 2 <= row["height"] - 2
    contents, hashes = [row["content_sha256"] for row in kept], [row["perceptual_hash"] for row in kept]
    assert len(contents) == len(set(contents))
    assert all((one ^ other).bit_count() > 2 for i, one in enumerate(hashes) for other in hashes[:i])
    before = {row["sample_id"]: row["boxes"] for row in table.to_pylist()}
    changed = {row["sample_id"] for row in kept if str(row["boxes"]) != str(before[row["sample_id"]])}
    assert changed == {row["sample_id"] for row in cleaned.repaired.to_pylist()}
    assert report["rows_repaired"] == len(changed)


def test_a_later_step_does_not_see_what_an_earlier_one_refused():
    table = probes({"content_sha256": "a", "width": 3}, {"content_sha256": "a", "label": "dog"})
    cleaned = clean_rows(table, [("too_small", TooSmall(8)), ("duplicates", Duplicates())])
    assert cleaned.probes["sample_id"].to_pylist() == ["s1"]
    assert cleaned.rejected["step"].to_pylist() == ["too_small"]
    assert [step["rows_in"] for step in cleaned.report["steps"]] == [2, 1]
    assert cleaned.report["steps"][0]["examples"][0]["reason"] == "3 x 21 pixels, less than 8 on a side"


class Bytes:
    """An extractor whose arrays are the first two bytes."""

    shape = (2,)
    facts = {"content_sha256": pa.string(), "length": pa.int64()}

    def probe(self, payload):
        if payload == b"bad":
            raise DataError("bad bytes.")
        return {"content_sha256": payload.hex(), "length": len(payload)}, np.frombuffer(payload[:2], np.uint8)


def ingested(folder, *rows):
    """Parquet parts of (id, bytes, further columns)."""
    parts = []
    for name, data, further in rows:
        line = {"sample_id": name, "uri": name, "label": "x", "data": data, "fault": None}
        line |= {"sha256": hashlib.sha256(data).hexdigest()} | further
        schema = pa.schema({key: pa.binary() if key == "data" else pa.string() for key in line})
        parts.append(folder / f"part-{len(parts):05d}.parquet")
        pq.write_table(pa.Table.from_pylist([line], schema=schema), parts[-1])
    return parts


def test_probes_hold_what_was_found_or_the_error_and_no_payload(tmp_path):
    parts = ingested(
        tmp_path,
        ("a", b"bad", {}),
        ("b", b"good", {}),
        ("c", b"", {"sha256": None}),
        ("d", b"", {"sha256": None, "fault": "no frame can be decoded"}),
    )
    table = probe_rows(Bytes(), parts, RunContext.local(tmp_path), tmp_path / "arrays.npy")
    assert "data" not in table.column_names
    assert table["length"].to_pylist() == [None, 4, None, None]
    assert table["error"].to_pylist() == ["bad bytes.", None, "the file cannot be read.", "no frame can be decoded"]
    assert table["position"].to_pylist() == [0, 1, 2, 3]
    assert np.load(tmp_path / "arrays.npy").tolist() == [[0, 0], list(b"go"), [0, 0], [0, 0]]


def test_a_task_carries_places_and_no_bytes_of_files(tmp_path):
    names = [f"s{i}" for i in range(150)]
    table = pa.table({"sample_id": names, "data": [bytes(20_000)] * 150})
    pq.write_table(table, tmp_path / "part-0.parquet", row_group_size=64)
    spans = list(probes_module._chunks([tmp_path / "part-0.parquet"], 40))
    assert [len(span) for span in spans] == [40, 24, 40, 24, 22]
    assert [row["sample_id"] for span in spans for row in span.read()] == names
    assert max(len(pickle.dumps(span)) for span in spans) < 1_000


def test_bytes_that_changed_after_ingest_stop_the_stage(tmp_path):
    parts = ingested(tmp_path, ("a", b"good", {"sha256": "00"}))
    with pytest.raises(DataError, match="changed after ingestion"):
        probe_rows(Bytes(), parts, RunContext.local(tmp_path), tmp_path / "arrays.npy")
