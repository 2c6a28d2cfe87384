"""Find rows that are equal except for their label."""

from __future__ import annotations

import functools

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.tables.rows import ROW, TableRows


def with_conflicts(same: pl.DataFrame, labels: TableRows, ctx: RunContext) -> pl.DataFrame:
    """Add the first row of each group of duplicates with different labels to the duplicates.

    Args:
        same: ``_row, same_as, reason`` of every row whose key occurs in an earlier row.
        labels: The rows with only the label column; only labels of duplicates are kept in memory.
        ctx: Run context.
    """
    if not len(same):
        return same
    (label,) = labels.schema
    numbers = pl.concat([same[ROW], same["same_as"]]).unique().sort()
    found = pl.concat(labels.map(functools.partial(_of_rows, numbers), ctx)).rename({label: "label"})
    pairs = same.join(found, on=ROW).join(found.rename({ROW: "same_as"}), on="same_as", suffix="_of_first")
    other = pairs.filter(pl.col("label").ne_missing(pl.col("label_of_first")))
    conflicting = pl.col("same_as").is_in(other["same_as"].unique().implode())
    reason = pl.lit("conflicting labels for the same key, as in row")
    firsts = (
        other.group_by("same_as")
        .agg(pl.col(ROW).min())
        .select(pl.col("same_as").alias(ROW), pl.col(ROW).alias("same_as"))
    )
    updated = same.with_columns(pl.when(conflicting).then(reason).otherwise("reason").alias("reason"))
    return pl.concat([updated, firsts.with_columns(reason=reason)]).sort(ROW)


def _of_rows(numbers: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col(ROW).is_in(numbers.implode()))
