"""The target column: class names or numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.tables.rows import TableRows

_FEW = 3  # classes up to which comparisons take half the time of a lookup


def classes_of(rows: TableRows, label: str | None, ctx: RunContext) -> list[str]:
    """The sorted class names; empty for a numeric label or no label.

    Raises:
        DataError: there is only one class.
    """
    if label is None or rows.schema[label].is_float():
        return []
    counter = rows.summaries and rows.summaries.counters.get(label)
    if counter and counter.exact:
        values = counter.values()
    else:
        found = pl.concat(rows.select([label]).map(functools.partial(_distinct, label), ctx))
        values = found[label].unique().drop_nulls().sort()
    classes = values.cast(pl.String).to_list()
    if len(classes) < 2:
        raise DataError(
            f"all {rows.height:,} training rows have the label {', '.join(map(repr, classes))}: there is nothing to "
            "tell apart.",
            where=f"data.label: {label}",
            fix="Name another label, or read data that has rows of a second class.",
        )
    return classes


def check_numbers(rows: TableRows, label: str, ctx: RunContext) -> None:
    """Raise `ConfigError`, with the first such value, if the column holds anything but fractions."""
    dtype = rows.schema[label]
    if dtype.is_float():
        return
    held = f"holds {dtype}"
    if not dtype.is_numeric():
        values = pl.concat(rows.select([label]).map(functools.partial(_distinct, label), ctx))[label].cast(pl.String)
        words = values.filter(values.cast(pl.Float64, strict=False).is_null() & values.is_not_null())
        held = f"holds {words[0]!r}" if len(words) else f"holds numbers as {dtype}"
    raise ConfigError(
        f"the column {label!r} {held}, where the learning task needs fractions.",
        where="data.label",
        fix="Convert it to `float` in `clean`, with the step `types`; or learn classes with `tabular_classification`.",
    )


def class_index(classes: Sequence[str], label: pl.Expr) -> pl.Expr:
    """The index of each text in the classes, uint32; null for an unknown class."""
    if not 0 < len(classes) <= _FEW:
        return label.cast(pl.Enum(classes), strict=False).to_physical().cast(pl.UInt32)
    return pl.coalesce(pl.when(label == name).then(pl.lit(place, pl.UInt32)) for place, name in enumerate(classes))


def _distinct(label: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(label).unique())
