"""The column that is to be learned: classes by name, or numbers."""

from __future__ import annotations

import functools

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.tables.rows import TableRows


def classes_of(rows: TableRows, label: str | None, ctx: RunContext) -> list[str]:
    """The names of the classes in order; none if numbers are learned, or nothing of the table."""
    if label is None or rows.schema[label].is_float():
        return []
    counter = rows.known and rows.known.counters.get(label)
    if counter and counter.exact:
        return counter.values().cast(pl.String).to_list()
    found = pl.concat(rows.select([label]).map(functools.partial(_distinct, label), ctx))
    return found[label].unique().drop_nulls().sort().cast(pl.String).to_list()


def _distinct(label: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(label).unique())
