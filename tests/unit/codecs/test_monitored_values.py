import json

import numpy as np
import orjson
import pytest

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.codecs.interactions import InteractionCodec, VisitorCodec
from lepton_tasks.codecs.monitored_values import (
    MAX_VALUE_LENGTH,
    MAX_VALUES,
    PREDICTION_FIELDS,
    prediction_values,
    sample_values,
)
from lepton_tasks.codecs.series import SeriesCodec
from lepton_tasks.codecs.tabular import TabularCodec, TabularColumn
from lepton_tasks.codecs.text import PAD, UNKNOWN, TextCodec

SERIES = SeriesCodec("at", 60, ("a", "b"), (5.0, 0.0), (2.0, 3.0), 2, {"wind": ("N", "S")}, calendar=("hour",))
PEOPLE = TabularCodec(
    (
        TabularColumn("age", "int"),
        TabularColumn("work", "text", values=("x",)),
        TabularColumn("grade", "int", values=("3",)),
        TabularColumn("at", "time"),
    )
)


def of(codec, request):
    payload = json.dumps(request).encode()
    return sample_values(codec, payload, codec.decode(payload))


def test_a_row_is_told_by_its_values_in_the_types_of_its_columns():
    row = {"age": "39", "work": "unheard of", "grade": 3, "at": "1970-01-01T00:01:00"}
    assert of(PEOPLE, row) == {"age": 39, "work": "unheard of", "grade": 3, "at": 60.0}
    assert of(PEOPLE, {"age": None}) == {"age": None, "work": None, "grade": None, "at": None}


@pytest.mark.parametrize("row", [{"age": 10**30}, {"work": "\ud800"}, {"work": "x" * 10_000}])
def test_whatever_a_row_holds_the_log_can_write_it_in_a_short_line(row):
    assert len(orjson.dumps(of(PEOPLE, row))) < MAX_VALUE_LENGTH + 100


def test_of_a_wide_row_the_first_values_are_told():
    wide = TabularCodec(tuple(TabularColumn(f"c{i}", "float") for i in range(MAX_VALUES + 5)))
    assert list(of(wide, {})) == [f"c{i}" for i in range(MAX_VALUES)]


def test_a_text_is_told_by_its_tokens_and_what_share_of_them_is_unknown():
    row = np.array([7, UNKNOWN, 9, UNKNOWN, PAD, PAD], np.int32)
    assert sample_values(TextCodec("", 6), b"", row) == {"tokens": 4, "unknown": 0.5}


def test_a_picture_is_told_by_its_brightness_and_contrast():
    pixels = np.array([[[0], [255]]], np.uint8)
    assert sample_values(ImageCodec(1, 2, 1), b"", pixels) == {"brightness": 0.5, "contrast": 0.5}


def test_a_series_is_told_by_its_last_row():
    rows = [{"at": f"2024-01-01T00:0{i}", "a": 1.25 + i, "b": -2, "wind": "SW" if i == 2 else "S"} for i in range(3)]
    assert of(SERIES, {"rows": rows[:2]}) == {"a": 2.25, "b": -2.0, "wind": "S"}
    assert of(SERIES, {"rows": rows}) == {"a": 3.25, "b": -2.0, "wind": None}


def test_users_and_items_are_told_by_whether_they_are_known():
    assert of(InteractionCodec("u", "i", ["7"], ["a"]), {"u": 7, "i": "b"}) == {"user_known": 1, "item_known": 0}
    visitors = VisitorCodec("u", ["7"], ["a", "b"], 2)
    assert of(visitors, {"u": 8, "recent": ["z", "b"]}) == {"user_known": 0, "items_known": 1}
    assert of(visitors, {}) == {"user_known": None, "items_known": None}


def test_a_codec_that_tells_nothing_is_no_fault():
    assert sample_values(object(), b"", np.zeros(1)) == {}


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ({"label": "a", "probability": 0.9, "probabilities": {"a": 0.9}}, {"label": "a", "probability": 0.9}),
        ({"rating": 3.5}, {"value": 3.5}),
        ({"is_anomaly": True, "score": 2.0, "threshold": 1.0, "where": {}}, {"is_anomaly": True, "score": 2.0}),
        ({"detections": [{}, {}], "counts": {"a": 2}}, {"boxes": 2}),
        ({"text": "a", "complete": True, "probability": 0.5}, {"probability": 0.5}),
    ],
)
def test_of_an_answer_a_few_values_are_kept(answer, kept):
    found = prediction_values(answer)
    assert {name: value for name, value in found.items() if value is not None} == kept
    assert set(found) <= set(PREDICTION_FIELDS)
