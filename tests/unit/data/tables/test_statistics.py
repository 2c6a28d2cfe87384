import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import table_on_disk

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.operations import Operation, apply_operations
from lepton_tasks.data.tables.statistics import summarise

CLIP = Operation("clip", "x", low=-2.0, high=3.0)
FILL = Operation("fill", "x", value=1.5)
MISSING = Operation("missing", "x", into="x_missing")
OUTSIDE = Operation("outside", "x", low=-1.0, high=2.0, into="x_outlier")
WORD = Operation("fill", "w", value="b")
values = st.none() | st.floats(-50, 50) | st.sampled_from([0.0, -2.0, 3.0, math.nan, math.inf, -math.inf])


@settings(max_examples=15)
@given(
    st.lists(st.tuples(values, st.none() | st.sampled_from("abc")), min_size=1, max_size=40),
    st.permutations([CLIP, FILL, MISSING, OUTSIDE, WORD]),
)
def test_what_is_known_after_operations_is_what_another_pass_finds(tmp_path_factory, rows, operations):
    folder = tmp_path_factory.mktemp("rows")
    frame = pl.DataFrame(rows, schema={"x": pl.Float64, "w": pl.String}, orient="row")
    table, ctx = table_on_disk(frame, folder), RunContext.local(folder)
    known = summarise(table, ctx, numbers=["x"], categories=["w"]).after(operations)
    again = table.changed(lambda rows: apply_operations(rows, operations))
    numbers = ["x", "x_missing", "x_outlier"]
    found = summarise(again, ctx, numbers=numbers, categories=["w"])
    for name in numbers:
        derived, expected = known.sketches[name].to_dict(), found.sketches[name].to_dict()
        for moment in ("mean", "m2"):
            assert derived.pop(moment) == pytest.approx(expected.pop(moment), abs=1e-9)
        assert derived == expected
    assert known.counters["w"].to_dict() == found.counters["w"].to_dict()


def test_beyond_what_is_counted_one_by_one_bins_are_the_same_and_moments_nearly():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(3, 4, 40_000), [math.inf] * 5, [-math.inf]])
    sketch = NumericSketch(sums=True)
    for part in np.array_split(values, 3):
        other = NumericSketch(sums=True)
        other.update(part)
        sketch.merge(other)
    clipped, expected = sketch.clipped(-6.0, 9.0), NumericSketch()
    expected.update(np.clip(values, -6.0, 9.0))
    for key in ("count", "infinities", "points", "counts", "min", "max"):
        assert clipped.to_dict()[key] == expected.to_dict()[key]
    assert clipped.mean == pytest.approx(expected.mean, abs=1e-6 * expected.std)
    assert clipped.std == pytest.approx(expected.std, rel=5e-6)


def test_where_sums_of_bins_would_mislead_the_rows_are_looked_at_again(tmp_path):
    random = np.random.default_rng(0)
    frame = pl.DataFrame({"x": random.normal(1e6, 1, 3_000)})
    table, ctx = table_on_disk(frame, tmp_path, rows_per_part=1_000), RunContext.local(tmp_path)
    clip = [Operation("clip", "x", low=1e6 - 1, high=1e6 + 1)]
    known = summarise(table, ctx, numbers=["x"]).after(clip)
    assert math.isnan(known.sketches["x"].mean)
    again = table.changed(lambda rows: apply_operations(rows, clip)).with_summaries(known)
    found = summarise(again, ctx, numbers=["x"]).sketches["x"]
    expected = frame["x"].clip(1e6 - 1, 1e6 + 1)
    assert (found.mean, found.std) == (pytest.approx(expected.mean(), rel=1e-15), pytest.approx(expected.std()))
    assert math.isnan(summarise(again, ctx, numbers=["x"], moments=[]).sketches["x"].mean)
