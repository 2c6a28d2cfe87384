"""Which step rejects a row, and why; the first match counts."""

from __future__ import annotations

import polars as pl

from lepton_tasks.data.tables.rows import ROW

CODE, REASON = "__code", "__reason"
"""The code of the step that refuses the row, uint8, 0 for none; and its reason."""

REFUSALS = pl.Schema([(ROW, pl.Int64()), ("code", pl.UInt8()), ("reason", pl.Categorical()), ("same_as", pl.Int64())])
"""What is kept in memory of a refused row, until its values are read; ``same_as`` is the row it equals."""


def unrefused(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows with `CODE` and `REASON` of rows that nothing has refused yet."""
    return frame.with_columns(pl.lit(0, pl.UInt8).alias(CODE), pl.lit(None, pl.String).alias(REASON))


def refused_by(frame: pl.LazyFrame, code: int, reason: pl.Expr) -> pl.LazyFrame:
    """The rows with `CODE` and `REASON` set where there is a reason, and no earlier step refused the row."""
    new = pl.col("__new").is_not_null() & (pl.col(CODE) == 0)
    return frame.with_columns(__new=reason).with_columns(
        pl.when(new).then(pl.lit(code, pl.UInt8)).otherwise(pl.col(CODE)).alias(CODE),
        pl.when(new).then("__new").otherwise(pl.col(REASON)).alias(REASON),
    )


def refusals_in(frame: pl.DataFrame) -> pl.DataFrame:
    """`REFUSALS` of the rows that have a `CODE`."""
    refused = frame.filter(pl.col(CODE) > 0)
    return refusals(refused, pl.col(CODE), pl.col(REASON))


def refusals(frame: pl.DataFrame, code: pl.Expr, reason: pl.Expr, same_as: pl.Expr | None = None) -> pl.DataFrame:
    """`REFUSALS` of all rows of a frame with `ROW`."""
    same_as = pl.lit(None) if same_as is None else same_as
    return frame.select(ROW, code.alias("code"), reason.alias("reason"), same_as.alias("same_as")).cast(REFUSALS)
