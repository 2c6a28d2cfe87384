"""Cleaning steps for user-item interactions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

import polars as pl
import pydantic

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.data.tables.steps.column_checks import check_columns

Least = Annotated[int, pydantic.Field(ge=1)]


@dataclasses.dataclass(frozen=True)
class EventWeights:
    """Add a column with the weight of each event type; events without a weight are rejected.

    Args:
        column: Event column.
        weights: Weight of each event, e.g. ``{view: 1, purchase: 5}``.
        into: Name of the new column.
    """

    column: str
    weights: dict[str, float]
    into: str = "weight"

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` unless the column is text."""
        check_columns([self.column], schema, where="column", suits=lambda dtype: dtype == pl.String, wanted="text")

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The weight column, if it exists."""
        return [self.into] if self.into in schema else []

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Add the weights; null for events without one."""
        weights = pl.col(self.column).replace_strict(self.weights, default=None, return_dtype=pl.Float64)
        return frame.with_columns(weights.alias(self.into))

    def refuse(self) -> pl.Expr | None:
        """A constant reason."""
        return pl.when(pl.col(self.into).is_null()).then(pl.lit("no weight for the event"))


@dataclasses.dataclass(frozen=True)
class MinInteractions:
    """Reject users and items with too few interactions, repeatedly, until none is left (k-core).

    Args:
        user: User column.
        item: Item column.
        per_user: Minimum rows per user.
        per_item: Minimum rows per item.
    """

    user: str
    item: str
    per_user: Least = 5
    per_item: Least = 5

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column."""
        check_columns([self.user, self.item], schema, where="user, item")

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The k-core, and for each rejected row the insufficient count."""
        limits = {self.user: self.per_user, self.item: self.per_item}
        rejected = [pl.DataFrame(schema={ROW: pl.Int64, "reason": pl.String})]
        while True:
            height = frame.height
            for column, least in limits.items():
                count = pl.len().over(column)
                reason = pl.format(f"{{}} interactions of {column} {{}}, less than {least}", count, pl.col(column))
                few = frame.select(ROW, pl.when(count < least).then(reason).alias("reason"))
                rejected.append(few.filter(pl.col("reason").is_not_null()))
                frame = frame.filter(few["reason"].is_null())
            if frame.height == height:
                return frame, pl.concat(rejected)


@dataclasses.dataclass(frozen=True)
class Position:
    """Add each row's position within its group, in millionths: 0 for the first, below 1,000,000 for the last.

    With ``data.split: {method: time, column: position}`` the test split has each user's latest interactions. With
    `from_end` the last row is 0, the one before it -1, and so on: ``method: last`` then tests on each user's last row.

    Args:
        group: Group column, such as users.
        order: Column to order by; null for row order.
        into: Name of the new column.
        from_end: Count from the end instead.
    """

    group: str
    order: str | None = None
    into: str = "position"
    from_end: bool = False

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column, or if the new one exists."""
        check_columns([self.group, *([self.order] if self.order else [])], schema, where="group, order")
        if self.into in schema:
            raise ConfigError(f"there is a column {self.into!r} already.", where="into")

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All rows with the position; rejects none."""
        order = [self.order, ROW] if self.order else [ROW]
        rank = pl.struct(order).rank("ordinal").over(self.group).cast(pl.Int64) - 1
        count = pl.len().over(self.group).cast(pl.Int64)
        position = rank + 1 - count if self.from_end else rank * 1_000_000 // count
        return (
            frame.with_columns(position.alias(self.into)),
            pl.DataFrame(schema={ROW: pl.Int64, "reason": pl.String}),
        )
