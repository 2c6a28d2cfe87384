"""Whatever JSON is sent: a codec decodes it, or says with a `DataError` why not; nothing else is raised."""

import contextlib
import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.codecs.interactions import InteractionCodec, VisitorCodec
from lepton_tasks.codecs.latent import LatentCodec
from lepton_tasks.codecs.observing import observed
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
NUMBERS = st.integers() | st.sampled_from([10**30, 10**400, -(2**63), True]) | st.floats()
TEXTS = st.text(max_size=5) | st.sampled_from(["1e999", "\ud800", "2024-01-01T00:00", "0001-01-01"])
LEAVES = st.none() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8
)
REQUESTS = st.dictionaries(NAMES, VALUES, max_size=6) | VALUES


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@settings(max_examples=150)
@given(request_=REQUESTS)
def test_it_is_decoded_or_refused(codec, request_):
    payload = json.dumps(request_).encode()
    with contextlib.suppress(DataError):
        sample = codec.decode(payload)
        assert isinstance(sample, np.ndarray)
        orjson.dumps(observed(codec, payload, sample))  # as the request log writes it
