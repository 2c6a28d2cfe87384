import collections

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.data.counter import CategoryCounter


def counter_of(*parts, bound=10_000):
    counter = CategoryCounter(bound)
    for part in parts:
        other = CategoryCounter(bound)
        other.update(part)
        counter.merge(other)
    return counter


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "", None]), max_size=20), max_size=5))
def test_few_values_are_counted_exactly_however_they_are_cut(parts):
    counter = counter_of(*(pl.Series(part, dtype=pl.String) for part in parts))
    expected = collections.Counter(value for part in parts for value in part)
    assert counter.nulls == expected.pop(None, 0)
    assert dict(counter.top()) == expected
    assert counter.distinct == len(expected)
    assert counter.exact


@pytest.mark.parametrize("parts", [1, 9])
def test_frequent_values_survive_among_many_and_the_undercount_bounds_the_error(parts):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(0, 10**6, 60_000), np.repeat([7, 11, 13], [4000, 3000, 2000])])
    rng.shuffle(values)
    series = pl.Series(values)
    counter = CategoryCounter(1000)
    for part in np.array_split(np.arange(len(values)), parts):
        counter.update(series[part])
    assert not counter.exact
    assert counter.undercount <= 2 * len(values) / 1000
    true = collections.Counter(values.tolist())
    top = counter.top(3)
    assert [value for value, _ in top] == [7, 11, 13]
    assert all(count <= true[value] <= count + counter.undercount for value, count in top)


def test_what_both_of_two_counters_left_out_is_left_out_of_their_sum():
    parts = [pl.Series(["x"] * 5 + list(rare)) for rare in ("abcdef", "ghijkl")]
    merged, other = (CategoryCounter(bound=4) for _ in parts)
    merged.update(parts[0])
    other.update(parts[1])
    assert (merged.undercount, other.undercount) == (1, 1)
    merged.merge(other)
    assert (merged.top(), merged.undercount) == ([("x", 8)], 2)


def test_the_number_of_different_values_is_estimated_within_three_percent():
    for seed, many in enumerate((30_000, 200_000)):
        series = pl.Series(np.random.default_rng(seed).permutation(many)).cast(pl.String)
        counter = CategoryCounter()
        for start in range(0, many, 25_000):
            counter.update(series[start : start + 25_000])
        assert counter.distinct == pytest.approx(many, rel=0.03)  # three and a half standard errors


def test_categories_count_as_text_and_json_holds_plain_values():
    import datetime as dt

    counter = counter_of(pl.Series(["x", "y", "x"], dtype=pl.Categorical), pl.Series(["y", "y"], dtype=pl.Categorical))
    assert counter.to_dict(1) == {
        "count": 5, "nulls": 0, "distinct": 2, "exact": True, "undercount": 0, "top": [["y", 3]],
    }  # fmt: skip
    assert counter_of(pl.Series([dt.date(2024, 1, 2)])).to_dict()["top"] == [["2024-01-02", 1]]
