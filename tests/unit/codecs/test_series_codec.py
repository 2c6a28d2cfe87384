import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

from lepton_tasks.codecs.series import SeriesCodec
from lepton_tasks.core.errors import DataError

CODEC = SeriesCodec(
    time="at",
    step=3600,
    columns=("x", "y"),
    mean=(10.0, 0.0),
    std=(2.0, 1.0),
    window=2,
    categories={"wind": ("NE", "NW")},
    lags=(1,),
    lagged="x",
    calendar=("hour", "weekday", "month"),
)


def rows(count, **changes):
    made = [{"at": f"2024-02-0{1 + i // 24}T{i % 24:02}:00", "x": 10 + i, "y": -i, "wind": "NW"} for i in range(count)]
    made[-1] |= changes
    return made


def payload(rows):
    return json.dumps({"rows": rows}).encode()


def test_the_last_rows_are_decoded():
    window = CODEC.decode(payload(rows(7)))
    assert window.shape == (2, CODEC.width) == (2, 2 + 2 + 1 + 6)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window[:, 0], [5 / 2, 6 / 2])  # scaled
    np.testing.assert_allclose(window[:, 1], [-5, -6])
    np.testing.assert_allclose(window[:, 2:4], [[0, 1], [0, 1]])  # one number a wind
    np.testing.assert_allclose(window[:, 4], [4 / 2, 5 / 2])  # x an hour before
    hours, days = 2 * np.pi * np.array([5, 6]) / 24, 2 * np.pi * 3 / 7  # 1 February 2024 was a Thursday
    np.testing.assert_allclose(window[:, 5:7], np.stack([np.sin(hours), np.cos(hours)], 1), rtol=1e-6)
    np.testing.assert_allclose(window[:, 7:9], [[np.sin(days), np.cos(days)]] * 2, rtol=1e-6)
    np.testing.assert_allclose(window[:, 9:], [[np.sin(np.pi / 6), np.cos(np.pi / 6)]] * 2, rtol=1e-6)


def test_an_unknown_category_is_none_of_the_known():
    assert CODEC.decode(payload(rows(7, wind="SE")))[-1, 2:4].tolist() == [0, 0]


def test_a_zone_is_converted_to_utc():
    far = [{**row, "at": row["at"] + "+01:00"} for row in rows(7)]
    utc = [{**row, "at": row["at"] + "Z"} for row in rows(7)]
    np.testing.assert_array_equal(CODEC.decode(payload(utc)), CODEC.decode(payload(rows(7))))
    assert not np.array_equal(CODEC.decode(payload(far)), CODEC.decode(payload(utc)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b'{"rows": 3}', "no list of objects named 'rows'"),
        (payload(rows(2)), "2 rows; 3 are needed"),
        (payload(rows(7, at="noon")), r"rows\[6\].at: 'noon' is not a time"),
        (payload(rows(7, at="2024-02-01T09:00")), r"rows\[6\].at: not 3600 seconds after"),
        (payload(rows(7, y=None)), r"rows\[6\].y: None is not a number"),
        (payload(rows(7, y=float("nan"))), r"rows\[6\].y: nan is not a number"),
    ],
)
def test_bad_requests_say_what_is_wrong(body, message):
    with pytest.raises(DataError, match=message):
        CODEC.decode(body)


def test_one_long_word_does_not_take_its_length_for_each_row():
    codec = dataclasses.replace(CODEC, window=200)
    tracemalloc.start()
    window = codec.decode(payload(rows(201, wind="N" * 100_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert window[-1, 2:4].tolist() == [0, 0]
    assert peak < 10 * 2**20  # 80 MB, if all were as long as that one


def test_a_number_beyond_all_floats_is_none():
    with pytest.raises(DataError, match="is not a number"):
        CODEC.decode(payload(rows(3, x=10**400)))
