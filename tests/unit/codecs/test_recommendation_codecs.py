import numpy as np
import pytest

from lepton_tasks.codecs.interactions import VisitorCodec
from lepton_tasks.codecs.recommendations import ItemsCodec
from lepton_tasks.core.errors import DataError

CODEC = VisitorCodec("user", users=["7", "ann"], items=["b", "a", "3"], recent=2)


@pytest.mark.parametrize(
    ("payload", "row"),
    [
        (b'{"user": 7, "recent": ["b", "a"]}', [1, 2, 1]),  # the latest first
        (b'{"user": "ann"}', [2, 0, 0]),
        (b'{"user": null, "recent": ["x", "a", 3, "b"]}', [0, 1, 3]),
        (b'{"user": "eve", "recent": ["x"]}', [0, 0, 0]),
        (b"{}", [0, 0, 0]),
    ],
)
def test_visitors(payload, row):
    found = CODEC.decode(payload)
    assert found.dtype == np.int32
    assert found.tolist() == row


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"x", "not JSON"),
        (b'{"user": 1.5}', "'user' is neither"),
        (b'{"user": 7, "recent": "a"}', "'recent' is not a list"),
        (b'{"user": 7, "recent": [null]}', "'recent' is not a list"),
        (b'{"user": 7, "item": "a"}', "no field 'item'"),
    ],
)
def test_bad_requests_say_what_is_wrong(payload, message):
    with pytest.raises(DataError, match=message):
        CODEC.decode(payload)


def test_items_are_named_the_best_first_and_what_has_no_score_is_left_out():
    outputs = {"items": np.array([[2, 1, 0]]), "scores": np.array([[0.5, 0.25, -np.inf]], np.float32)}
    assert ItemsCodec(["b", "a"]).encode(outputs, 0) == {
        "items": [{"item": "a", "score": 0.5}, {"item": "b", "score": 0.25}]
    }
