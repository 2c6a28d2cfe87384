"""Whatever JSON is sent: a codec decodes it, or says with a `DataError` why not; nothing else is raised."""

import contextlib
import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.codecs.fields import fields_of
from lepton_tasks.codecs.interactions import InteractionCodec, VisitorCodec
from lepton_tasks.codecs.latent import LatentCodec
from lepton_tasks.codecs.monitored_values import sample_values
from lepton_tasks.codecs.series import SeriesCodec
from lepton_tasks.codecs.tabular import TabularCodec, TabularColumn
from lepton_tasks.core.errors import DataError

CODECS = [
    TabularCodec(
        (
            TabularColumn("age", "int"),
            TabularColumn("weight", "float"),
            TabularColumn("work", "text", values=("private",)),
            TabularColumn("town", "text", buckets=7),
            TabularColumn("member", "bool"),
            TabularColumn("at", "time"),
        )
    ),
    SeriesCodec("at", 3600, ("weight",), (0.0,), (1.0,), 1, categories={"town": ("Ulm",)}),
    InteractionCodec("age", "town", users=["1"], items=["Ulm"]),
    VisitorCodec("age", users=["1"], items=["Ulm"], recent=2),
    LatentCodec(latent=2, labels=["a"]),
]
NAMES = st.sampled_from(["age", "weight", "work", "town", "member", "at", "rows", "recent", "label", "seed", "\ud800"])
ODD = st.sampled_from([10**400, -(2**63), math.nan, True, None, "1e999", "\ud800", "2024-01-01T00:00", "0001-01-01"])
LEAVES = ODD | st.integers() | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
ANYTHING = st.dictionaries(NAMES, VALUES, max_size=6) | VALUES


def requests_of(codec):
    """Mostly objects of the codec's own fields."""
    names = [field.name for field in fields_of(codec)]
    if names != ["rows"]:
        return st.dictionaries(st.sampled_from(names), LEAVES, min_size=1) | ANYTHING
    row = st.dictionaries(st.sampled_from(["weight", "town"]), LEAVES, min_size=1)
    rows = st.lists(row.map(lambda row: {"at": "2024-01-01T00:00", "weight": 1} | row), min_size=1, max_size=2)
    return st.fixed_dictionaries({"rows": rows}) | ANYTHING


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@settings(max_examples=150)
@given(data=st.data())
def test_it_is_decoded_or_refused(codec, data):
    payload = json.dumps(data.draw(requests_of(codec))).encode()
    with contextlib.suppress(DataError):
        sample = codec.decode(payload)
        assert isinstance(sample, np.ndarray)
        orjson.dumps(sample_values(codec, payload, sample))  # as the request log writes it
