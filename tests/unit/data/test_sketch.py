import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_tasks.data.sketch import EXACT_VALUES, NumericSketch

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e150, max_value=1e150)
QS = [0, 0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999, 1]


def sketch_of(*parts):
    sketch = NumericSketch()
    for part in parts:
        other = NumericSketch()
        other.update(part)
        sketch.merge(other)
    return sketch


@given(st.lists(st.lists(FINITE, max_size=40), max_size=6))
@settings(max_examples=60)
def test_few_values_are_summed_up_exactly_however_they_are_cut(parts):
    values = np.array([value for part in parts for value in part])
    sketch = sketch_of(*(np.array(part) for part in parts))
    assert sketch.count == len(values)
    if len(values):
        assert (sketch.min, sketch.max) == (values.min(), values.max())
        scale = max(1e-300, np.abs(values).max())
        assert sketch.mean == pytest.approx(values.mean(), abs=1e-12 * scale)
        assert np.array_equal(sketch.quantile([0, 1]), [values.min(), values.max()])
        assert np.array_equal(sketch.quantile(QS, "lower"), np.quantile(values, QS, method="lower"))
        assert np.array_equal(sketch.quantile(QS, "higher"), np.quantile(values, QS, method="higher"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=50_000),
        lambda rng: rng.lognormal(3, 2, 50_000),
        lambda rng: -rng.pareto(2, 50_000),
        lambda rng: rng.integers(-(10**6), 10**6, 50_000),
    ],
)
def test_quantiles_of_many_values_are_off_by_at_most_a_bin(draw, seed):
    values = draw(np.random.default_rng(seed)).astype(float)
    sketch = sketch_of(*np.array_split(values, 7))
    assert sketch.values is None
    # An empirical quantile is between two order statistics; allow one bin width around them.
    ranks = np.array(QS) * (len(values) - 1)
    order = np.sort(values)
    low, high = order[np.floor(ranks).astype(int)], order[np.ceil(ranks).astype(int)]
    got = sketch.quantile(QS)
    assert np.all(got >= low - np.abs(low) / 512 - 1e-12)
    assert np.all(got <= high + np.abs(high) / 512 + 1e-12)
    assert sketch.std == pytest.approx(values.std(ddof=1), rel=1e-12)


def test_what_is_counted_does_not_depend_on_the_parts():
    values = np.random.default_rng(1).normal(size=20_000)
    whole, cut = sketch_of(values), sketch_of(*np.array_split(values, 13))
    assert np.array_equal(whole.quantile(QS), cut.quantile(QS))
    assert np.array_equal(whole.count_below(values[:100]), cut.count_below(values[:100]))


def test_the_line_between_exact_and_binned_is_the_number_of_different_values():
    assert sketch_of(np.arange(EXACT_VALUES)).values is not None
    assert sketch_of(np.arange(EXACT_VALUES + 1)).values is None
    halves = sketch_of(np.arange(800), np.arange(400, 1200))
    assert halves.values is None
    assert halves.count == 1600


def test_moments_are_the_same_to_the_last_bit_whatever_the_order_of_the_rows():
    chance = np.random.default_rng(0)
    values = chance.normal(size=300).round(2)
    sketches = [sketch_of(chance.permutation(values)) for _ in range(20)]
    assert len({(sketch.mean, sketch.m2) for sketch in sketches}) == 1


def test_decimals_are_counted_as_what_they_say():
    sketch = NumericSketch()
    sketch.update(pl.Series(["1.50", "2.25", None]).cast(pl.Decimal(10, 2)))
    assert (sketch.min, sketch.max, sketch.mean, sketch.nulls) == (1.5, 2.25, 1.875, 1)
    moments = NumericSketch()
    moments.update_moments(pl.Series(["1.50", "2.25"]).cast(pl.Decimal(10, 2)))
    assert moments.mean == 1.875


def test_missing_and_infinite_values_are_counted_apart():
    sketch = NumericSketch()
    sketch.update(pl.Series([1.0, None, float("nan"), float("inf"), -float("inf"), float("inf"), -0.0, 0.0]))
    assert (sketch.count, sketch.nulls, sketch.nan, sketch.infinities) == (3, 1, 1, (1, 2))
    assert (sketch.min, sketch.max, sketch.mean) == (0.0, 1.0, pytest.approx(1 / 3))
    values, counts = sketch.values
    assert values.tolist() == [0.0, 1.0]
    assert counts.tolist() == [2, 1]


def test_an_empty_sketch_says_so():
    sketch = sketch_of(pl.Series([None, None], dtype=pl.Int32))
    assert (sketch.count, sketch.nulls) == (0, 2)
    assert math.isnan(float(sketch.quantile(0.5)))
    assert math.isnan(sketch.std)


@pytest.mark.parametrize("size", [0, 5, 5000])
def test_json_brings_it_back(size):
    sketch = sketch_of(np.random.default_rng(2).normal(size=size))
    again = NumericSketch.from_dict(json.loads(json.dumps(sketch.to_dict())))
    assert again.to_dict() == sketch.to_dict()
    again.merge(sketch_of(np.arange(3000)))
    sketch.merge(sketch_of(np.arange(3000)))
    assert np.array_equal(again.quantile(QS), sketch.quantile(QS), equal_nan=True)


def test_counts_below_agree_with_the_values():
    values = np.random.default_rng(3).exponential(size=30_000) - 0.3
    at = np.array([-1.0, -0.3, 0.0, 0.5, 2.0, values.max(), 100.0])
    exact = (values[:, None] < at).sum(axis=0)
    assert sketch_of(values).count_below(at) == pytest.approx(exact, abs=30)
    few = np.array([1.0, 2.0, 2.0, 5.0])
    assert sketch_of(few).count_below([1, 2, 2.5, 5, 6]).tolist() == [0, 1, 3, 3, 4]
