"""Subjects beside ours, each a process: the same job written as its users would, and the limit of reading and writing.

The job: `amount` becomes a number; rows without one, without `f0`, or with the id of an earlier row are left out; the
rest is split 70/15/15; on the training part quartiles give bounds, and mean and spread of the clipped values are found;
all numbers are clipped and scaled, categories become codes, times a circle; each split is written as Parquet.
Unlike ours, the peers keep no record of what they left out, and split by a hash, not exactly by label.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

FLOATS = [f"f{i}" for i in range(7)]
NUMBERS = [*FLOATS, "i0", "i1", "i2", "amount", "flag"]
CLIPPED = [*FLOATS, "amount"]
CATEGORIES = ["c0", "c1", "c2", "c3"]
PERIODS = {"day": 86_400, "week": 604_800, "year": 31_556_952}
SPLITS = ("train", "validation", "test")


def copy(folder: Path, out: Path) -> None:
    """The limit: pyarrow reads every row group and writes it."""
    import concurrent.futures

    import pyarrow.parquet as pq

    def one(path: Path) -> None:
        with pq.ParquetFile(path) as file, pq.ParquetWriter(out / path.name, file.schema_arrow) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group, use_threads=False))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(one, sorted(folder.glob("*.parquet"))))


def polars(folder: Path, out: Path, *, full_width: bool = False) -> None:
    """Polars' streaming engine; duplicates by the key column alone, or by `unique` of whole rows."""
    import polars as pl

    rows = pl.scan_parquet(folder / "*.parquet").with_columns(pl.col("amount").cast(pl.Float64, strict=False))
    kept = pl.col("amount").is_not_null() & pl.col("f0").is_not_null()
    if full_width:
        clean = out / "clean.parquet"
        rows.filter(kept).unique("id").sink_parquet(clean)
        rows = pl.scan_parquet(clean)
    else:
        numbered = rows.with_row_index("row").filter(kept)
        again = numbered.select("row", "id").filter(~pl.col("id").is_first_distinct()).select("row")
        rows = numbered.join(again.collect(engine="streaming").lazy(), on="row", how="anti").drop("row")
    part = pl.col("id").hash(0) % 100
    rows = rows.with_columns(split=pl.when(part < 70).then(0).when(part < 85).then(1).otherwise(2).cast(pl.UInt8))
    train = rows.filter(pl.col("split") == 0)
    quarters = [pl.col(c).quantile(q).alias(f"{c}_{n}") for c in CLIPPED for n, q in (("low", 0.25), ("high", 0.75))]
    values = [pl.col(c).drop_nulls().unique().implode().alias(c) for c in CATEGORIES]
    first = train.select(*quarters, *values).collect(engine="streaming")
    bounds = {c: _bounds(first[f"{c}_low"][0], first[f"{c}_high"][0]) for c in CLIPPED}
    clipped = [pl.col(c).clip(*bounds[c]) for c in CLIPPED]
    moments = [e for c in NUMBERS for e in (pl.col(c).mean().alias(f"{c}_mean"), pl.col(c).std().alias(f"{c}_std"))]
    scale = train.with_columns(*clipped).select(moments).collect(engine="streaming").row(0, named=True)
    scaled = [((pl.col(c) - scale[f"{c}_mean"]) / scale[f"{c}_std"]).fill_null(0).cast(pl.Float32) for c in NUMBERS]
    words = {c: sorted(first[c][0].to_list()) for c in CATEGORIES}
    codes = [
        pl.col(c).cast(pl.Enum(words[c]), strict=False).to_physical().cast(pl.Int32).fill_null(-1) for c in CATEGORIES
    ]
    seconds = pl.col("at").dt.epoch("us") / 1e6
    circles = [
        getattr(seconds * (2 * math.pi / period), kind)().cast(pl.Float32).alias(f"at_{name}_{kind}")
        for name, period in PERIODS.items()
        for kind in ("sin", "cos")
    ]
    target = (pl.col("label") == "yes").cast(pl.Int64)
    made = rows.with_columns(*clipped).select("split", *scaled, *codes, *circles, target)
    by_split = pl.PartitionBy(out / "features", key="split", include_key=False)
    made.sink_parquet(by_split, compression="lz4", statistics=False)
    _write(out, bounds, scale, words)


def polars_full(folder: Path, out: Path) -> None:
    """Polars with `unique` of whole rows."""
    polars(folder, out, full_width=True)


def duckdb(folder: Path, out: Path) -> None:
    """DuckDB: a table of what is kept, then aggregates, then COPY."""
    import duckdb as duck

    db = duck.connect(str(out / "work.duckdb"))
    db.execute(f"SET temp_directory='{out}/tmp'")
    db.execute("SET preserve_insertion_order=false")
    cast = "TRY_CAST(amount AS DOUBLE)"
    db.execute(
        f"CREATE TABLE t AS SELECT * EXCLUDE (amount, n), CASE WHEN hash(id) % 100 < 70 THEN 0 WHEN hash(id) % 100 < 85"
        f" THEN 1 ELSE 2 END AS split FROM (SELECT *, {cast} AS number, row_number() OVER (PARTITION BY id) AS n"
        f" FROM read_parquet('{folder}/*.parquet') WHERE {cast} IS NOT NULL AND f0 IS NOT NULL) WHERE n = 1"
    )
    column = {c: "number" if c == "amount" else c for c in NUMBERS} | {"flag": "flag::INT"}
    quarters = ", ".join(f"quantile_cont({column[c]}, [0.25, 0.75])" for c in CLIPPED)
    found = db.execute(f"SELECT {quarters} FROM t WHERE split = 0").fetchone()
    bounds = {c: _bounds(*pair) for c, pair in zip(CLIPPED, found, strict=True)}
    clipped = {
        c: f"least(greatest({column[c]}, {bounds[c][0]}), {bounds[c][1]})" if c in bounds else column[c]
        for c in NUMBERS
    }
    moments = ", ".join(f"avg({x}), stddev_samp({x})" for x in clipped.values())
    flat = db.execute(f"SELECT {moments} FROM t WHERE split = 0").fetchone()
    scale = {c: flat[2 * i : 2 * i + 2] for i, c in enumerate(NUMBERS)}
    words = {}
    for c in CATEGORIES:
        words[c] = [w for (w,) in db.execute(f"SELECT DISTINCT {c} FROM t WHERE split = 0 AND {c} NOT NULL").fetchall()]
        db.execute(
            f"CREATE TABLE w_{c} AS SELECT {c} AS word, row_number() OVER ()::INT AS code FROM (SELECT DISTINCT {c}"
            f" FROM t WHERE split = 0 AND {c} NOT NULL)"
        )
    numbers = ", ".join(f"coalesce(({clipped[c]} - {m}) / {s}, 0)::FLOAT AS {c}" for c, (m, s) in scale.items())
    codes = ", ".join(f"coalesce(w_{c}.code, -1) AS {c}" for c in CATEGORIES)
    joins = " ".join(f"LEFT JOIN w_{c} ON w_{c}.word = t.{c}" for c in CATEGORIES)
    circles = ", ".join(
        f'{kind}(epoch_us("at") / 1e6 * {2 * math.pi / period})::FLOAT AS at_{name}_{kind}'
        for name, period in PERIODS.items()
        for kind in ("sin", "cos")
    )
    db.execute(
        f"COPY (SELECT split, {numbers}, {codes}, {circles}, (label = 'yes')::BIGINT AS label FROM t {joins})"
        f" TO '{out}/features' (FORMAT parquet, PARTITION_BY (split), COMPRESSION lz4)"
    )
    _write(out, bounds, scale, words)


def pandas(folder: Path, out: Path) -> None:
    """pandas, all in memory."""
    import pandas as pd

    rows = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)
    rows["amount"] = pd.to_numeric(rows["amount"], errors="coerce")
    rows = rows.dropna(subset=["amount", "f0"]).drop_duplicates("id")
    _frame(rows, pd.util.hash_array(rows["id"].to_numpy()) % 100, out)


def _frame(rows: Any, part: Any, out: Path) -> None:
    import numpy as np
    import pandas as pd

    split = np.where(part < 70, 0, np.where(part < 85, 1, 2))
    train = rows[split == 0]
    bounds = {c: _bounds(*train[c].quantile([0.25, 0.75])) for c in CLIPPED}
    made = {}
    for c in NUMBERS:
        x = rows[c].astype("float64")
        x = x.clip(*bounds[c]) if c in bounds else x
        made[c] = ((x - x[split == 0].mean()) / x[split == 0].std()).fillna(0).astype("float32")
    for c in CATEGORIES:
        made[c] = pd.Categorical(rows[c], categories=train[c].dropna().unique()).codes.astype("int32")
    seconds = rows["at"].astype("datetime64[us]").astype("int64") / 1e6
    for name, period in PERIODS.items():
        for kind in (np.sin, np.cos):
            made[f"at_{name}_{kind.__name__}"] = kind(seconds * (2 * math.pi / period)).astype("float32")
    made["label"] = (rows["label"] == "yes").astype("int64")
    frame = pd.DataFrame(made)
    for code, name in enumerate(SPLITS):
        frame[split == code].to_parquet(out / f"{name}.parquet", compression="lz4")
    _write(out, bounds, {}, {})


def dask_dataframe(folder: Path, out: Path) -> None:
    """dask.dataframe as its first pages show it."""
    import dask.dataframe as dd
    import numpy as np

    rows = dd.read_parquet(sorted(map(str, folder.glob("*.parquet"))))
    rows["amount"] = dd.to_numeric(rows["amount"], errors="coerce").astype("float64")
    rows = rows.dropna(subset=["amount", "f0"]).drop_duplicates(subset=["id"])
    rows["split"] = (rows["id"] * 2654435761 % 100).map(
        lambda p: 0 if p < 70 else 1 if p < 85 else 2, meta=("split", "i8")
    )
    train = rows[rows["split"] == 0]
    quarters = train[CLIPPED].quantile([0.25, 0.75]).compute()
    bounds = {c: _bounds(quarters[c].iloc[0], quarters[c].iloc[1]) for c in CLIPPED}
    for c in CLIPPED:
        rows[c] = rows[c].clip(*bounds[c])
    words = {c: rows[rows["split"] == 0][c].dropna().drop_duplicates().compute() for c in CATEGORIES}
    codes = {c: {word: code for code, word in enumerate(words[c])} for c in CATEGORIES}
    numbers = rows[NUMBERS].astype("float64")
    train = numbers[rows["split"] == 0]
    mean, std = train.mean().compute(), train.std().compute()
    seconds = rows["at"].astype("datetime64[us]").astype("int64") / 1e6
    circles = {
        f"at_{name}_{kind.__name__}": kind(seconds * (2 * math.pi / period)).astype("float32")
        for name, period in PERIODS.items()
        for kind in (np.sin, np.cos)
    }
    made = rows[["split"]].assign(
        **{c: ((rows[c].astype("float64") - mean[c]) / std[c]).fillna(0).astype("float32") for c in NUMBERS},
        **{c: rows[c].map(codes[c], meta=(c, "float64")).fillna(-1).astype("int32") for c in CATEGORIES},
        **circles,
        label=(rows["label"] == "yes").astype("int64"),
    )
    made.to_parquet(out / "features", partition_on="split", compression="lz4")
    _write(out, bounds, mean.to_dict(), {})


def _bounds(low: float, high: float) -> tuple[float, float]:
    reach = 1.5 * (high - low)
    return float(low - reach), float(high + reach)


def _write(out: Path, bounds: Any, scale: Any, words: Any) -> None:
    (out / "fitted.json").write_text(json.dumps({"bounds": bounds, "scale": scale, "words": words}, default=str))


SUBJECTS = {f.__name__: f for f in (copy, polars, polars_full, duckdb, pandas, dask_dataframe)}


if __name__ == "__main__":
    name, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    SUBJECTS[name](source, target)
