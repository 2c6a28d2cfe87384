"""Category codes: 0 unknown in training, 1 missing, 2 and up known."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import polars as pl

from lepton_tasks.codecs.tabular import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, bucket_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.fitted_steps import SPLIT
from lepton_tasks.data.tables.hashes import stable_hash
from lepton_tasks.data.tables.labels import class_index
from lepton_tasks.data.tables.rows import ROW, TableRows

_MIN_ROWS = 50  # with fewer rows, even a useful column may have mostly distinct values


class FoldedColumn(Protocol):
    """Target-encoding settings of a column."""

    @property
    def folds(self) -> int:
        """Number of folds of the training split."""

    @property
    def smoothing(self) -> float:
        """Weight of the overall mean, in rows."""


def category_text(name: str) -> pl.Expr:
    """The column as category names; numbers in the format of Python's `str`."""
    return pl.col(name).cast(pl.String)


def vocabulary(counter: CategoryCounter, *, min_count: int, max_values: int) -> list[str]:
    """The values with their own code, most frequent first."""
    values = [value for value, count in counter.top(max_values) if count >= min_count]
    return pl.Series(values).cast(pl.String).to_list() if values else []


def warn_of_identifier(name: str, counter: CategoryCounter, ctx: RunContext) -> None:
    """Warn about mostly unique categories: they do not generalise, and clients of the model can see the values."""
    if counter.count >= _MIN_ROWS and counter.distinct > counter.count / 2:
        ctx.log.warning(
            "Column %r has %s distinct values in %s training rows. If it is an identifier, list it under "
            "`features.params.ignore`; if it holds numbers, convert it with the cleaning step `types`.",
            name,
            f"{counter.distinct:,}",
            f"{counter.count:,}",
        )


def code_expression(feature: Mapping[str, Any]) -> pl.Expr:
    """The code of each row's category, int32."""
    text = category_text(feature["column"])
    if feature["kind"] == "hash":
        hashed = functools.partial(_buckets, feature["buckets"])
        code = text.map_batches(hashed, return_dtype=pl.Int32, is_elementwise=True)
    else:
        code = (class_index(feature["values"], text).cast(pl.Int32) + FIRST_CODE).fill_null(UNKNOWN_CODE)
    return pl.when(text.is_null()).then(pl.lit(MISSING_CODE, pl.Int32)).otherwise(code)


def cross_expression(feature: Mapping[str, Any], of: Sequence[Mapping[str, Any]]) -> pl.Expr:
    """The code of a pair of categories, int32."""
    first, second = (code_expression(one).cast(pl.Int64) for one in of)
    pair: pl.Expr = (first * of[1]["size"] + second) % feature["size"]
    return pair.cast(pl.Int32)


def _buckets(count: int, texts: pl.Series) -> pl.Series:
    """Hash buckets of texts; each distinct text is hashed once."""
    known = texts.unique().drop_nulls()
    buckets = pl.Series([bucket_of(text, count) for text in known], dtype=pl.Int32)
    return texts.replace_strict(known, buckets, default=None, return_dtype=pl.Int32)


def fit_rates(
    rows: TableRows, columns: Mapping[str, FoldedColumn], label: str, *, seed: int, ctx: RunContext
) -> dict[str, dict[str, Any]]:
    """Target encoding per column: the mean label of each category, or the rate of each class but the first.

    Rates are smoothed towards the overall mean with the weight of `smoothing` rows. Training rows use the rate fitted
    on the other folds, so that no row's own label leaks into its features.

    Source: D. Micci-Barreca (2001), A preprocessing scheme for high-cardinality categorical attributes.
    """
    numeric = rows.schema[label].is_float()
    folds = {name: column.folds for name, column in columns.items()}
    parts = rows.select([*columns, label]).map(functools.partial(_counts, folds, label, numeric, seed), ctx)
    merged = pl.concat(parts).group_by("column", "text", "fold", "class").agg(pl.col("rows").sum(), pl.col("sum").sum())
    classes = [] if numeric else sorted(merged["class"].drop_nulls().unique().to_list())[1:]
    fitted = {}
    for name, column in columns.items():
        mine = merged.filter(pl.col("column") == name)
        rates = _rates(mine, classes, folds=column.folds, smoothing=column.smoothing)
        names = [f"{name}_rate"] if len(classes) < 2 else [f"{name}_rate_{kind}" for kind in classes]
        fitted[name] = rates | {"names": names, "seed": seed}
    return fitted


def _counts(folds: Mapping[str, int], label: str, numeric: bool, seed: int, frame: pl.DataFrame) -> pl.DataFrame:
    """Row counts and sums of numeric labels by column, category, fold and class."""
    value = pl.col(label).cast(pl.Float64) if numeric else pl.lit(None, pl.Float64)
    kind = pl.lit(None, pl.String) if numeric else pl.col(label).cast(pl.String)
    return pl.concat(
        frame.group_by(category_text(name).alias("text"), fold_of(count, seed).alias("fold"), kind.alias("class"))
        .agg(rows=pl.len().cast(pl.Int64), sum=value.sum())
        .select(pl.lit(name).alias("column"), "text", "fold", "class", "rows", "sum")
        for name, count in folds.items()
    )


def fold_of(folds: int, seed: int) -> pl.Expr:
    """The fold of each training row."""
    return (stable_hash(pl.col(ROW), seed) % folds).cast(pl.Int64)


def _rates(counts: pl.DataFrame, classes: Sequence[str], *, folds: int, smoothing: float) -> dict[str, Any]:
    """Values by descending frequency, and rates by output (and fold) and code."""
    texts = (
        counts.drop_nulls("text")
        .group_by("text")
        .agg(pl.col("rows").sum())
        .sort(["rows", "text"], descending=[True, False])
    )
    values = texts["text"].to_list()
    code = {text: index for index, text in enumerate(values, start=FIRST_CODE)} | {None: MISSING_CODE}
    width = max(len(classes), 1)
    total = np.zeros((folds, len(values) + FIRST_CODE))
    sums = np.zeros((width, folds, len(values) + FIRST_CODE))
    for _, text, fold, kind, rows, value in counts.iter_rows():
        total[fold, code[text]] += rows
        if not classes:
            sums[0, fold, code[text]] += value
        elif kind in classes:
            sums[classes.index(kind), fold, code[text]] += rows
    prior = sums.sum(axis=(1, 2)) / max(total.sum(), 1)

    def smoothed(s: np.ndarray, n: np.ndarray) -> Any:
        return ((s + smoothing * prior[:, np.newaxis]) / (n + smoothing)).tolist()

    others = [smoothed(sums.sum(axis=1) - sums[:, fold], total.sum(axis=0) - total[fold]) for fold in range(folds)]
    return {
        "values": values,
        "size": len(values) + FIRST_CODE,
        "rates": smoothed(sums.sum(axis=1), total.sum(axis=0)),
        "fold_rates": others,
    }


def rate_expressions(feature: Mapping[str, Any]) -> list[pl.Expr]:
    """The rate of each row's category, float32; for training rows the rate fitted on the other folds."""
    code = code_expression(feature).cast(pl.UInt32)
    training = pl.col(SPLIT) == SPLITS.index("train")
    size = feature["size"]
    place = fold_of(len(feature["fold_rates"]), feature["seed"]) * size + code
    made = []
    for index, name in enumerate(feature["names"]):
        every = pl.lit(pl.Series(feature["rates"][index], dtype=pl.Float64)).gather(code)
        folded = np.concatenate([rates[index] for rates in feature["fold_rates"]])
        own = pl.lit(pl.Series(folded, dtype=pl.Float64)).gather(place.cast(pl.UInt32))
        made.append(pl.when(training).then(own).otherwise(every).cast(pl.Float32).alias(name))
    return made
