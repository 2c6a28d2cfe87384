"""Cleaning step that converts column types."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from lepton_tasks.data.tables.steps.column_checks import check_columns

TypeName = Literal["int", "float", "bool", "text", "category", "date", "datetime"]

_TYPES: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    "text": pl.String(),
    "category": pl.String(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
}
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")


@dataclasses.dataclass(frozen=True)
class Types:
    """Convert column types; values that cannot be converted are rejected or become missing.

    Args:
        columns: A type for each column: ``int``, ``float``, ``bool``, ``text`` (or ``category``), ``date``,
            ``datetime``.
        otherwise: ``refuse`` the row, or set the value to ``null``, for `impute` to fill.
        format: Format of dates in strftime codes; default ISO 8601.
        decimal: Decimal mark of numbers in text. With a comma, points may group thousands: ``1.234,5``.
    """

    columns: Mapping[str, TypeName]
    otherwise: Literal["refuse", "null"] = "refuse"
    format: str | None = None
    decimal: Literal[".", ","] = "."

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a column that is missing."""
        check_columns(list(self.columns), schema)

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The columns whose type changes."""
        return [name for name, kind in self.columns.items() if schema[name] != _TYPES.get(kind, pl.Boolean())]

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Convert the columns; null where a value cannot be converted."""
        schema = frame.collect_schema()
        names = self.rewrites(schema)
        came = [pl.col(name).is_not_null().alias(f"__came_{name}") for name in names]
        frame = frame.with_columns(*came, *(self._converted(name, schema[name]).alias(name) for name in names))
        lost = [(pl.col(f"__came_{name}") & pl.col(name).is_null()).alias(f"__lost_{name}") for name in names]
        kept = [pl.lit(value=False).alias(f"__lost_{name}") for name in self.columns if name not in names]
        return frame.with_columns(*lost, *kept)

    def refuse(self) -> pl.Expr | None:
        """The first column whose value cannot be converted."""
        if self.otherwise == "null":
            return None
        return pl.coalesce(
            pl.when(pl.col(f"__lost_{name}")).then(pl.lit(f"{name}: not {kind}")) for name, kind in self.columns.items()
        )

    def _converted(self, name: str, dtype: pl.DataType) -> pl.Expr:
        kind, column = self.columns[name], pl.col(name)
        if kind == "bool":
            text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
            return (
                pl.when(text.is_in(_TRUE)).then(pl.lit(value=True)).when(text.is_in(_FALSE)).then(pl.lit(value=False))
            )
        if dtype == pl.String and kind in ("int", "float"):
            column = _with_point(column) if self.decimal == "," else column
            numbers = functools.partial(_numbers, _TYPES[kind])
            column = column.map_batches(numbers, return_dtype=_TYPES[kind], is_elementwise=True)
        elif dtype == pl.String and kind == "date":
            column = column.str.strip_chars().str.to_date(self.format, strict=False)
        elif dtype == pl.String and kind == "datetime":
            column = column.str.strip_chars().str.to_datetime(self.format, strict=False, time_unit="us")
        elif dtype.is_float() and kind == "int":
            column = pl.when(column == column.floor()).then(column.cast(pl.Int64, strict=False))
        else:
            column = column.cast(_TYPES[kind], strict=False)
        return pl.when(column.is_finite()).then(column) if kind == "float" else column


def _with_point(text: pl.Expr) -> pl.Expr:
    """Replace the decimal comma by a point; null where points do not group thousands."""
    text = text.str.strip_chars()
    grouped = text.str.contains(r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$")
    text = pl.when(grouped).then(text.str.replace_all(".", "", literal=True)).otherwise(text)
    return pl.when(~text.str.contains(".", literal=True)).then(text.str.replace(",", ".", literal=True))


def _numbers(dtype: pl.DataType, texts: pl.Series) -> pl.Series:
    """Parse numbers; texts that fail are retried without white space and as a float."""
    numbers = texts.cast(dtype, strict=False)
    failed = (numbers.is_null() & texts.is_not_null()).arg_true()
    if not len(failed):
        return numbers
    again = texts.gather(failed).str.strip_chars().cast(pl.Float64, strict=False)
    if dtype == pl.Int64():
        again = again.set(again != again.floor(), None).cast(pl.Int64, strict=False)
    return numbers.scatter(failed, again)
