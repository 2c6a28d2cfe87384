import datetime as dt
import math

import numpy as np
import polars as pl
import pytest

from lepton_tasks.data.tables import kernels
from lepton_tasks.data.tables.kernels import Cyclic, Scaling, compute_features, fuse_clips
from lepton_tasks.data.tables.operations import Operation, apply_operations


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 7)


def by_polars(values: pl.Series, scaling: Scaling) -> np.ndarray:
    x = pl.col("x").cast(pl.Float64)
    scaled = ((x - scaling.shift) / scaling.scale).cast(pl.Float32)
    fill = np.float32((scaling.fill - scaling.shift) / scaling.scale)
    return values.rename("x").to_frame().select(pl.when(x.is_finite()).then(scaled).otherwise(fill)).to_series()


COLUMNS = {
    "floats": pl.Series([0.1 * i - 2 if i % 5 else None for i in range(40)]),
    "odd": pl.Series([math.nan, math.inf, -math.inf, 1e300, None, 1.5] * 5),
    "singles": pl.Series([0.1 * i if i % 4 else None for i in range(40)], dtype=pl.Float32),
    "integers": pl.Series([i if i % 6 else None for i in range(40)]),
    "bytes": pl.Series(range(40), dtype=pl.UInt8),
    "truths": pl.Series([True, None, False] * 9),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("first", [0, 3, 13])
def test_numbers_are_scaled_to_the_last_bit_as_polars_does(name, first):
    values, scaling = COLUMNS[name][first:], Scaling("x", "x", shift=0.3, scale=1.7, fill=0.9)
    assert (compute_features(scaling, values)[0] == by_polars(values, scaling).to_numpy()).all()


def test_clips_are_done_by_the_kernel_as_they_are_to_columns():
    values = COLUMNS["odd"].rename("x")
    clips = [Operation("clip", "x", low=-1.0, high=8.0), Operation("clip", "x", low=0.0, high=1.25)]
    scaling = Scaling("x", "x", shift=0.3, scale=1.7, fill=0.9)
    (found,), spared = fuse_clips([scaling], clips, others=set())
    clipped = apply_operations(values.to_frame().lazy(), clips).collect()["x"]
    assert spared == {"x"}
    assert (compute_features(found, values)[0] == by_polars(clipped, scaling).to_numpy()).all()


@pytest.mark.parametrize(
    ("operation", "others"), [(Operation("clip", "x", low=0, high=1), {"x"}), (Operation("fill", "x", value=1), set())]
)
def test_what_others_look_at_and_what_is_no_clip_is_left_to_the_columns(operation, others):
    scaling = Scaling("x", "x", shift=0.3, scale=1.7, fill=0.9)
    assert fuse_clips([scaling], [operation], others) == ([scaling], set())


def test_times_are_on_a_circle():
    times = [dt.datetime(1969, 12, 31, 18) + dt.timedelta(hours=5 * i) if i % 7 else None for i in range(40)]
    for dtype in (pl.Datetime("us"), pl.Datetime("ms")):
        sine, cosine = compute_features(Cyclic("at", "day", 86_400), pl.Series(times, dtype=dtype)[3:])
        turns = [None if time is None else (time - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1) for time in times]
        expected = [(0, 0) if t is None else (math.sin(2 * math.pi * t), math.cos(2 * math.pi * t)) for t in turns[3:]]
        np.testing.assert_allclose(np.stack([sine, cosine], axis=1), expected, atol=1e-7)
