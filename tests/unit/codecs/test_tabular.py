import json
import math

import numpy as np
import pytest

from lepton_tasks.codecs.tabular import TabularCodec, TabularColumn, bucket_of
from lepton_tasks.core.errors import DataError

CODEC = TabularCodec(
    (
        TabularColumn("age", "int", required=True),
        TabularColumn("weight", "float"),
        TabularColumn("work", "text", values=("private", "state")),
        TabularColumn("town", "text", buckets=7),
        TabularColumn("grade", "int", values=("3", "1")),
        TabularColumn("member", "bool"),
        TabularColumn("at", "time"),
    ),
    ignored=("id",),
)


def decode(**row):
    return CODEC.decode(json.dumps(row).encode()).tolist()


def test_a_row_becomes_numbers_codes_and_seconds():
    row = decode(age=39, weight=1.5, work="state", town="Ulm", grade=3, member=True, at="1970-01-02T00:00:00", id=7)
    assert row == [39, 1.5, 3, bucket_of("Ulm", 7), 2, 1, 86_400]


def test_unknown_categories_are_0_and_missing_ones_1():
    assert decode(age=1, work="theatre", grade=2)[2:5:2] == [0, 0]
    row = decode(age=1, work=None)
    assert row[2:5] == [1, 1, 1]
    assert math.isnan(row[1])
    assert math.isnan(row[6])


def test_times_with_a_zone_are_the_same_instant():
    assert decode(age=1, at="1970-01-01T02:00:00+02:00")[6] == 0


def test_hashed_codes_never_change():
    assert [bucket_of(text, 1_000) for text in ("", "Ulm", "Köln")] == [2, 57, 717]


def test_half_a_character_is_an_unknown_category():
    assert decode(age=1, work="\ud800", town="\ud800")[2:4] == [0, bucket_of("\ud800", 7)]


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"age": 1' + b"0" * 400 + b"}", b'{"\\ud800": 1}'])
def test_what_no_number_and_no_stack_can_hold_is_refused(payload):
    with pytest.raises(DataError):
        CODEC.decode(payload)


def test_what_is_nested_too_deeply_to_be_written_is_refused():
    deep = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        CODEC.payload({"age": deep})


def test_numbers_may_be_written_as_text():
    assert decode(age="39", weight=" 2 ")[:2] == [39, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"age: no value; in training it always had one"),
        ({"age": None}, r"age: no value"),
        ({"age": "old"}, r"age: 'old' is not of the type int"),
        ({"age": 1.5}, r"age: 1.5 is not a whole number"),
        ({"age": True}, r"age: True is not of the type int"),
        ({"age": 1, "weight": [1]}, r"weight: \[1\] is not of the type float"),
        ({"age": 1, "weight": math.inf}, r"weight: inf is not a finite number"),
        ({"age": 1, "work": 3}, r"work: 3 is not of the type text"),
        ({"age": 1, "member": 1}, r"member: 1 is not of the type bool"),
        ({"age": 1, "at": "yesterday"}, r"at: 'yesterday' is not an ISO 8601 time"),
        ({"agee": 1}, r"there is no column 'agee'.*Did you mean 'age'"),
        ({"labl": 1}, r"Known: age, at, grade, member, town, weight, work\.$"),  # none that is ignored, as the label
    ],
)
def test_a_bad_value_is_refused_with_its_column(row, message):
    with pytest.raises(DataError, match=message):
        decode(**row)


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", b"[1]", b"3"])
def test_what_is_no_row_is_refused(payload):
    with pytest.raises(DataError, match=r"not (JSON|one row)"):
        CODEC.decode(payload)


def test_the_vector_is_float64():
    assert CODEC.decode(b'{"age": 9007199254740991}').dtype == np.float64
    assert CODEC.decode(b'{"age": 9007199254740991}')[0] == 9007199254740991
