import numpy as np
import pytest

from lepton_tasks.codecs.interactions import InteractionCodec
from lepton_tasks.core.errors import DataError

CODEC = InteractionCodec("user", "item", users=["7", "ann"], items=["b", "a"])


@pytest.mark.parametrize(
    ("payload", "pair"),
    [
        (b'{"user": 7, "item": "a"}', [1, 2]),
        (b'{"user": "ann", "item": "b"}', [2, 1]),
        (b'{"user": "eve", "item": "b"}', [0, 1]),
        (b'{"user": 7, "item": 3}', [1, 0]),
    ],
)
def test_decode(payload, pair):
    found = CODEC.decode(payload)
    assert found.dtype == np.int32
    assert found.tolist() == pair


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"x", "not JSON"),
        (b"7", "holds int"),
        (b'{"user": 7}', "'item' is missing"),
        (b'{"user": true, "item": 1}', "'user'"),
    ],
)
def test_bad_requests_say_what_is_wrong(payload, message):
    with pytest.raises(DataError, match=message):
        CODEC.decode(payload)
