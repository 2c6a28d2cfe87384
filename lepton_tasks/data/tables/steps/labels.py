"""Cleaning step for invalid labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import polars as pl

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.column_checks import check_columns


@dataclasses.dataclass(frozen=True)
class Labels:
    """Reject rows whose label is missing, blank, not numeric, or not a known class.

    Args:
        column: The label column.
        classes: The allowed classes; default any non-blank label.
        rename: Alternative spellings of classes, e.g. ``{">50K.": ">50K"}``.
    """

    column: str = "label"
    classes: tuple[str, ...] = ()
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` if the column is missing."""
        check_columns([self.column], schema, where="column")
        if (self.rename or self.classes) and schema[self.column].is_float():
            raise ConfigError(f"{self.column!r} holds numbers to be learned, no classes.", where="classes")

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The label, if it needs renaming or trimming."""
        return [self.column] if schema[self.column] == pl.String or self.rename else []

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Strip white space from labels and rename them."""
        label = pl.col(self.column)
        if not self.rewrites(frame.collect_schema()):
            return frame
        label = label.cast(pl.String).str.strip_chars()
        return frame.with_columns(label.replace(dict(self.rename)) if self.rename else label)

    def refuse(self) -> pl.Expr:
        """A missing or unknown label."""
        text = pl.col(self.column).cast(pl.String)
        reason = pl.when(text.is_null() | text.is_in(["", "NaN", "inf", "-inf"])).then(pl.lit("no label"))
        if not self.classes:
            return reason
        return reason.when(~text.is_in(list(self.classes))).then(pl.lit("no such class"))
