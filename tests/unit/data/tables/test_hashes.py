import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.data.tables.hashes import hash_values


def splitmix(x: int) -> int:
    mask = 2**64 - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def hash_in_python(value: int | str, seed: int) -> int:
    mask, step, prime = 2**64 - 1, 0x9E3779B97F4A7C15, 0x100000001B3
    if isinstance(value, str):
        data = value.encode()
        total = sum((byte + 1) * pow(prime, place, 2**64) for place, byte in enumerate(data, start=1))
        value = splitmix((total + len(data) * step) & mask)
    return splitmix((value + (seed + 1) * step) & mask)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(0, 2**32))
def test_integers_hash_as_in_python(values, seed):
    assert hash_values(pl.Series(values, dtype=pl.Int64), seed=seed).to_list() == [
        hash_in_python(v, seed) for v in values
    ]


@given(st.lists(st.text()), st.integers(0, 2**32))
def test_texts_hash_as_in_python(values, seed):
    found = hash_values(pl.Series(values, dtype=pl.String), seed=seed)
    assert found.to_list() == [hash_in_python(v, seed) for v in values]


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (7, 0x953AEB70673E29CB),
        (-1, 0x6D1DB36CCBA982D2),
        ("", 0xF88BB8A8724C81EC),
        ("user-1", 0xC61C0ECE76B87792),
        ("é", 0x29D7F0E7AD6AC228),
        (0.5, 0x42DA5E302BC14D17),
        (True, 0x71C18690EE42C90B),
        (dt.datetime(2024, 2, 29, 12), 0x0C8A3DB271DD0958),
    ],
)
def test_known_values_so_that_no_version_moves_a_row_to_another_split(value, known):
    assert hash_values(pl.Series([value]), seed=3)[0] == known


def test_the_same_value_hashes_alike_in_any_type_any_slice_and_beside_nulls():
    ints = hash_values(pl.Series([5, 6], dtype=pl.Int64), seed=0)
    assert hash_values(pl.Series([5, 6], dtype=pl.UInt8), seed=0).equals(ints)
    assert hash_values(pl.Series([None, 5, 6], dtype=pl.Int32), seed=0).to_list() == [None, *ints]
    words = pl.Series(["a", None, "bcd", "", "a"])
    assert hash_values(words[2:], seed=0).equals(hash_values(words, seed=0)[2:])
    assert hash_values(words.cast(pl.Categorical), seed=0).equals(hash_values(words, seed=0))
    assert hash_values(pl.Series([0.0]), seed=0).equals(hash_values(pl.Series([-0.0]), seed=0))


def test_hashes_are_evenly_spread():
    for values in (pl.Series(range(100_000)), pl.Series(range(100_000)).cast(pl.String)):
        shares = np.bincount(hash_values(values, seed=1).to_numpy() >> np.uint64(60), minlength=16) / 100_000
        assert shares == pytest.approx([1 / 16] * 16, abs=0.004)
