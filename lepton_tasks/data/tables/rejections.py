"""Rejection code and reason of each row; the first rejecting step counts."""

from __future__ import annotations

import polars as pl

from lepton_tasks.data.tables.rows import ROW

CODE, REASON = "__code", "__reason"
"""The code of the rejecting step, uint8, 0 for none; and its reason."""

REJECTIONS = pl.Schema([(ROW, pl.Int64()), ("code", pl.UInt8()), ("reason", pl.Categorical()), ("same_as", pl.Int64())])
"""In-memory record of a rejected row; ``same_as`` is the row that it duplicates."""


def without_rejections(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Add `CODE` 0 and a null `REASON` to all rows."""
    return frame.with_columns(pl.lit(0, pl.UInt8).alias(CODE), pl.lit(None, pl.String).alias(REASON))


def reject_rows(frame: pl.LazyFrame, code: int, reason: pl.Expr) -> pl.LazyFrame:
    """Set `CODE` and `REASON` where there is a reason and no earlier step rejected the row."""
    new = pl.col("__new").is_not_null() & (pl.col(CODE) == 0)
    return frame.with_columns(__new=reason).with_columns(
        pl.when(new).then(pl.lit(code, pl.UInt8)).otherwise(pl.col(CODE)).alias(CODE),
        pl.when(new).then("__new").otherwise(pl.col(REASON)).alias(REASON),
    )


def rejected_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """`REJECTIONS` of the rows with a `CODE`."""
    refused = frame.filter(pl.col(CODE) > 0)
    return rejections(refused, pl.col(CODE), pl.col(REASON))


def rejections(frame: pl.DataFrame, code: pl.Expr, reason: pl.Expr, same_as: pl.Expr | None = None) -> pl.DataFrame:
    """`REJECTIONS` of all rows of a frame with `ROW`."""
    same_as = pl.lit(None) if same_as is None else same_as
    return frame.select(ROW, code.alias("code"), reason.alias("reason"), same_as.alias("same_as")).cast(REJECTIONS)
