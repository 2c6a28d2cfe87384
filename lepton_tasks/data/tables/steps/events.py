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
        column: Column of events.
        weights: Weight of each event, e.g. ``{view: 1, purchase: 5}``.
        into: Name of the column that is made.
    """

    column: str
    weights: dict[str, float]
    into: str = "weight"

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """The column is text."""
        check_columns([self.column], schema, where="column", suits=lambda dtype: dtype == pl.String, wanted="text")

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The column of weights, if there was one."""
        return [self.into] if self.into in schema else []

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The rows with the weights; null where there is none."""
        weights = pl.col(self.column).replace_strict(self.weights, default=None, return_dtype=pl.Float64)
        return frame.with_columns(weights.alias(self.into))

    def refuse(self) -> pl.Expr | None:
        """One reason for all."""
        return pl.when(pl.col(self.into).is_null()).then(pl.lit("no weight for the event"))


@dataclasses.dataclass(frozen=True)
class MinInteractions:
    """Reject users and items with too few interactions, repeatedly, until none is left (k-core).

    Args:
        user: Column of users.
        item: Column of items.
        per_user: Fewest rows of a user.
        per_item: Fewest rows of an item.
    """

    user: str
    item: str
    per_user: Least = 5
    per_item: Least = 5

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Both columns are there."""
        check_columns([self.user, self.item], schema, where="user, item")

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The core, and which count fell short when each other row went."""
        limits = {self.user: self.per_user, self.item: self.per_item}
        gone = [pl.DataFrame(schema={ROW: pl.Int64, "reason": pl.String})]
        while True:
            height = frame.height
            for column, least in limits.items():
                count = pl.len().over(column)
                reason = pl.format(f"{{}} interactions of {column} {{}}, less than {least}", count, pl.col(column))
                few = frame.select(ROW, pl.when(count < least).then(reason).alias("reason"))
                gone.append(few.filter(pl.col("reason").is_not_null()))
                frame = frame.filter(few["reason"].is_null())
            if frame.height == height:
                return frame, pl.concat(gone)


@dataclasses.dataclass(frozen=True)
class Position:
    """Add each row's position within its group, in millionths: 0 for the first, below 1,000,000 for the last.

    With ``data.split: {method: time, column: position}`` each user's latest interactions are tested on. With `from_end`
    the last row has 0, the one before it -1, and so on: ``method: last`` then tests on the last one of each user.

    Args:
        group: Column of groups, such as users.
        order: Column that says what is later; null for the order of the rows.
        into: Name of the column that is made.
        from_end: Count from the end instead.
    """

    group: str
    order: str | None = None
    into: str = "position"
    from_end: bool = False

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """The columns are there, and the new one is not."""
        check_columns([self.group, *([self.order] if self.order else [])], schema, where="group, order")
        if self.into in schema:
            raise ConfigError(f"there is a column {self.into!r} already.", where="into")

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All rows; none is refused."""
        order = [self.order, ROW] if self.order else [ROW]
        rank = pl.struct(order).rank("ordinal").over(self.group).cast(pl.Int64) - 1
        count = pl.len().over(self.group).cast(pl.Int64)
        position = rank + 1 - count if self.from_end else rank * 1_000_000 // count
        return (
            frame.with_columns(position.alias(self.into)),
            pl.DataFrame(schema={ROW: pl.Int64, "reason": pl.String}),
        )
