"""Position of each row within its stratum; every split method divides this order at two boundaries."""

from __future__ import annotations

import functools

import numpy as np
import polars as pl

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.tables.hashes import hash_values, stable_hash
from lepton_tasks.data.tables.rows import ROW, Change, TableRows

STRATUM, POSITION = "__stratum", "__position"


def split_order(use_case: UseCase, rows: TableRows, *, seed: int) -> Change:
    """A change that adds `STRATUM` (str) and `POSITION` (uint64): test rows first, then validation, then train.

    Rows that must be in the same split have the same position.

    Raises:
        ConfigError: the label or the column to split by is missing or of the wrong type.
    """
    split, label = use_case.data.split, use_case.data.label
    where = f"{use_case.name}.yaml: data"
    stratum = pl.lit("")
    if label is not None:
        _check_column(label, rows, f"{where}.label")
        stratum = pl.when(pl.col(label).is_not_null()).then(stratum)
    if split.method == "stratified" and label is not None and not rows.schema[label].is_float():
        stratum = pl.col(label).cast(pl.String)
    if split.method in ("stratified", "random"):
        position = stable_hash(pl.col(ROW), seed)
    elif split.method == "file":
        position = _by_origin(rows, seed)
    else:
        column = str(split.column)
        dtype = _check_column(column, rows, f"{where}.split.column")
        if split.method in ("time", "last"):
            if not (dtype.is_temporal() or dtype.is_integer()):
                raise ConfigError(
                    f"{column!r} is of type {dtype}, which has no order in time.",
                    where=f"{where}.split.column",
                    fix="Convert it with the step `types`, or name a column of dates or whole numbers.",
                )
            # Descending time: the latest rows are the test split. 128 bits for negative values.
            position = (pl.lit(2**63 - 1, pl.Int128) - pl.col(column).cast(pl.Int64).cast(pl.Int128)).cast(pl.UInt64)
        else:
            position = stable_hash(pl.col(column), seed)
        position = pl.when(pl.col(column).is_not_null()).then(position)
    return functools.partial(_add_positions, stratum, position)


def _add_positions(stratum: pl.Expr, position: pl.Expr, frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(stratum.alias(STRATUM), position.alias(POSITION))


def _by_origin(rows: TableRows, seed: int) -> pl.Expr:
    """A hash of each row's origin."""
    starts = np.array([part.first for part in rows.parts])
    hashes = hash_values(pl.Series([part.origin for part in rows.parts]), seed=seed).to_numpy()
    return pl.col(ROW).map_batches(
        functools.partial(_hash_of_part, starts, hashes), return_dtype=pl.UInt64, is_elementwise=True
    )


def _hash_of_part(starts: np.ndarray, hashes: np.ndarray, numbers: pl.Series) -> pl.Series:
    return pl.Series(hashes[np.searchsorted(starts, numbers.to_numpy(), side="right") - 1])


def _check_column(name: str, rows: TableRows, where: str) -> pl.DataType:
    if name not in rows.schema:
        raise ConfigError(f"the table has no column {name!r}.", where=where, fix=did_you_mean(name, rows.schema))
    return rows.schema[name]


def check_split_order(frame: pl.DataFrame) -> None:
    """Raise `DataError` if rows of a part have no label or no position."""
    if missing := frame[STRATUM].null_count():
        raise DataError(f"{missing:,} rows of a part have no label.", where="data.label", fix="Add the step `labels`.")
    if missing := frame[POSITION].null_count():
        raise DataError(
            f"{missing:,} rows of a part have no value in the column to split by.",
            where="data.split.column",
            fix="Reject such rows in `clean`: the step `missing` with that column in its `columns`.",
        )
