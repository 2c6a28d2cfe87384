"""Rows of 19 mixed columns with missing values, duplicates, outliers and numbers that are none, as Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.tables.columns import CATEGORIES, FLOATS

_FILE_ROWS = 1_000_000


def write_rows(folder: Path, rows: int) -> None:
    """Write `rows` rows, the same each time; files of a million, row groups of half a million."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, rows, _FILE_ROWS):
        path = folder / f"rows-{start // _FILE_ROWS:04d}.parquet"
        if not path.exists():
            _file(start, min(_FILE_ROWS, rows - start)).write_parquet(
                path, compression="snappy", row_group_size=_FILE_ROWS // 2
            )


def _file(start: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(start + 1)
    ids = np.arange(start, start + rows)
    again = random.random(rows) < 0.02  # 2 % have the id of another row before them
    ids[again] = random.integers(0, start + rows, again.sum())
    columns: dict[str, pl.Series | np.ndarray] = {"id": ids}
    for i, name in enumerate(FLOATS):
        values = random.normal(i, i + 1, rows)
        far = random.random(rows) < 0.005
        values[far] *= 50
        columns[name] = _with_nulls(values, random, 0.01)
    columns["i0"] = random.integers(17, 90, rows)
    columns["i1"] = random.poisson(3, rows)
    columns["i2"] = random.integers(0, 1_000_000, rows)
    amount = pl.Series(np.round(random.lognormal(3, 1, rows), 2)).cast(pl.String)
    columns["amount"] = amount.scatter(np.flatnonzero(random.random(rows) < 0.01), "n/a")
    for name, count in CATEGORIES.items():
        codes = np.minimum(random.zipf(1.3, rows) - 1, count - 1)
        columns[name] = _with_nulls(pl.Series(codes).cast(pl.String).to_numpy(), random, 0.01)
    columns["at"] = pl.Series(1_600_000_000_000_000 + random.integers(0, 10**14, rows)).cast(pl.Datetime("us"))
    columns["flag"] = random.random(rows) < 0.3
    columns["label"] = pl.Series(np.where(random.random(rows) < 0.24, "yes", "no"))
    return pl.DataFrame(columns)


def _with_nulls(values: np.ndarray, random: np.random.Generator, share: float) -> pl.Series:
    series = pl.Series(values)
    return series.scatter(np.flatnonzero(random.random(len(values)) < share), None)
