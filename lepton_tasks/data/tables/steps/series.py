"""Cleaning steps for time series: timestamps, regular intervals, gap filling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import polars as pl
import pydantic

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.data.tables.steps.column_checks import check_columns
from lepton_tasks.data.tables.steps.text import Columns

Every = Annotated[str, pydantic.Field(pattern=r"^[1-9]\d*(s|m|h|d|w|mo|q|y)$")]
"""A time interval: a number and s, m (minutes), h, d, w, mo (months), q or y."""

_MAX_NEW = 20  # new rows per existing row: beyond, a wrong time is more likely than such a gap


def check_time(schema: Mapping[str, pl.DataType], column: str) -> None:
    """Raise `ConfigError` unless it is a time column."""
    check_columns(
        [column],
        schema,
        where="time",
        suits=lambda dtype: dtype.is_temporal(),
        wanted="times (see `timestamp`)",
    )


@dataclasses.dataclass(frozen=True)
class Timestamp:
    """Create one UTC time column from text, Unix seconds, or year, month, day, hour and minute.

    Args:
        into: Name of the new column.
        text: Text column.
        format: Its format in strftime codes, e.g. ``%d-%b-%Y %H:%M:%S``.
        exact: Whether the whole text must match.
        seconds: Column of seconds since 1970.
        year: Column of years.
        month: Column of months, 1 to 12.
        day: Column of days, 1 to 31.
        hour: Column of hours, 0 to 23; null for midnight.
        minute: Column of minutes.
    """

    into: str = "time"
    text: str | None = None
    format: str | None = None
    exact: bool = True
    seconds: str | None = None
    year: str | None = None
    month: str | None = None
    day: str | None = None
    hour: str | None = None
    minute: str | None = None

    def __post_init__(self) -> None:
        ways = [self.text and self.format, self.seconds, self.year and self.month and self.day]
        if sum(bool(way) for way in ways) != 1:
            raise ConfigError(
                "a time is made of `text` and `format`, or of `seconds`, or of `year`, `month` and `day`.",
                fix="Name the columns for one of the three.",
            )

    def _columns(self) -> list[str]:
        names = (self.text, self.seconds, self.year, self.month, self.day, self.hour, self.minute)
        return [name for name in names if name is not None]

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column or an unsuitable type."""
        wanted = "text" if self.text else "numbers"
        check_columns(
            self._columns(),
            schema,
            where="",
            suits=lambda dtype: dtype == pl.String if self.text else dtype.is_numeric(),
            wanted=wanted,
        )

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The time column, if it exists."""
        return [self.into] if self.into in schema else []

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Add the time column; null for invalid times."""
        if self.text is not None:
            text = pl.col(self.text).str.strip_chars()
            time = text.str.to_datetime(self.format, time_unit="us", strict=False, exact=self.exact)
        elif self.seconds is not None:
            time = pl.from_epoch((pl.col(self.seconds).cast(pl.Float64) * 1e6).cast(pl.Int64, strict=False), "us")
        else:
            time = self._from_parts()
        return frame.with_columns(time.alias(self.into))

    def _from_parts(self) -> pl.Expr:
        # Via text, since pl.datetime raises for an invalid date.
        numbers = [self.year, self.month, self.day, self.hour, self.minute]
        parts = [
            pl.lit("00") if name is None else pl.col(name).cast(pl.Int64, strict=False).cast(pl.String).str.zfill(2)
            for name in numbers
        ]
        return pl.format("{}-{}-{} {}:{}", *parts).str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False)

    def refuse(self) -> pl.Expr | None:
        """A constant reason."""
        return pl.when(pl.col(self.into).is_null()).then(pl.lit("no such time"))


@dataclasses.dataclass(frozen=True)
class RegularSeries:
    """Make time intervals regular: repeated times are rejected, missing ones added as nulls for `fill_gaps`.

    Args:
        time: Time column. Rows without a time must be rejected first: see `timestamp` and `missing`.
        every: The interval.
        group: Columns that identify a series.
        resample: Whether to average rows within an interval (first value of non-numeric columns); otherwise they are
            rejected.
    """

    time: str
    every: Every
    group: tuple[str, ...] = ()
    resample: bool = False

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column or an unsuitable time column."""
        check_time(schema, self.time)
        check_columns(self.group, schema, where="group")

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows on the grid, and the rejected rows with reasons."""
        keys = [*self.group, self.time]
        order = frame.columns
        frame = frame.with_columns(pl.col(self.time).cast(pl.Datetime("us"))).sort(*keys, ROW)
        grid = pl.col(self.time).dt.truncate(self.every)
        if self.resample:
            bucket = frame.with_columns(grid)
            first = pl.col(ROW).first().over(keys)
            merged = pl.format("averaged into row {}", first)
            averages = [
                pl.col(name).mean() if dtype.is_numeric() else pl.col(name).first()
                for name, dtype in frame.schema.items()
                if name not in (*keys, ROW)
            ]
            refused = _reasons(bucket, pl.when(pl.col(ROW) != first).then(merged))
            kept = bucket.group_by(keys, maintain_order=True).agg(pl.col(ROW).first(), *averages)
        else:
            off = pl.format(f"{{}} is no step of {self.every}", pl.col(self.time))
            again = pl.lit("same time as an earlier row")
            reason = (
                pl.when(grid != pl.col(self.time)).then(off).when(pl.int_range(pl.len()).over(keys) > 0).then(again)
            )
            refused = _reasons(frame, reason)
            kept = frame.filter(reason.is_null())
        return self._with_missing(kept).select(order), refused

    def _with_missing(self, rows: pl.DataFrame) -> pl.DataFrame:
        group = list(self.group)
        ends = rows.group_by(group or pl.lit(0).alias("_all"), maintain_order=True).agg(
            first=pl.col(self.time).min(), last=pl.col(self.time).max()
        )
        grid = ends.with_columns(pl.datetime_ranges("first", "last", self.every, time_unit="us").alias(self.time))
        steps = int(grid[self.time].list.len().sum())
        if steps > _MAX_NEW * max(rows.height, 100):
            raise DataError(
                f"{rows.height:,} rows lie between {ends['first'].min()!s} and {ends['last'].max()!s}:"
                f" {steps:,} steps of {self.every}.",
                where="regular",
                fix="Take a longer step, or refuse the rows with a wrong time.",
            )
        grid = grid.select(*group, pl.col(self.time)).explode(self.time)
        return grid.join(rows, on=[*group, self.time], how="left", nulls_equal=True, maintain_order="left")


@dataclasses.dataclass(frozen=True)
class FillGaps:
    """Fill runs of missing values up to a maximum length; rows of longer runs are rejected.

    Args:
        columns: Columns to fill.
        time: Time column.
        limit: Longest run to fill, in rows.
        method: ``forward`` repeats the last value, without knowledge of the future; ``interpolate`` is linear up to the
            next value, which is not available when forecasting.
        group: Columns that identify a series.
    """

    columns: Columns
    time: str
    limit: Annotated[int, pydantic.Field(ge=1)] = 3
    method: Literal["forward", "interpolate"] = "forward"
    group: tuple[str, ...] = ()

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` for a missing column, or one that cannot be interpolated."""
        check_time(schema, self.time)
        check_columns(self.group, schema, where="group")
        lines = self.method == "interpolate"
        check_columns(
            self.columns, schema, suits=lambda dtype: dtype.is_numeric() or not lines, wanted="numbers to interpolate"
        )

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The filled rows in time order, and the rejected rows in longer gaps."""
        group = list(self.group)
        frame = frame.sort(*group, self.time).with_columns(pl.lit(0).alias("_all"))
        over = group or ["_all"]
        runs = {name: pl.len().over([*over, pl.col(name).is_null().rle_id()]) for name in self.columns}
        filled = {
            name: (pl.col(name).forward_fill() if self.method == "forward" else pl.col(name).interpolate()).over(over)
            for name in self.columns
        }
        within = [
            pl.when(pl.col(name).is_not_null() | (runs[name] <= self.limit)).then(filled[name]).alias(name)
            for name in self.columns
        ]
        lengths = [runs[name].alias(f"_run_{i}") for i, name in enumerate(self.columns)]
        frame = frame.with_columns(*within, *lengths)
        reason = pl.coalesce(
            pl.when(pl.col(name).is_null()).then(
                pl.format(f"in a run of {{}} rows without {name}: over {self.limit}, or none before", f"_run_{i}")
            )
            for i, name in enumerate(self.columns)
        )
        refused = _reasons(frame.filter(pl.col(ROW).is_not_null()), reason)
        kept = frame.filter(pl.all_horizontal(pl.col(self.columns).is_not_null()))
        return kept.drop("_all", *(f"_run_{i}" for i in range(len(self.columns)))), refused

    def filled(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """``row, column, before, after`` of each filled value."""
        keys = [*self.group, self.time]
        old = before.select(*keys, *(pl.col(name).is_null().alias(f"__{name}") for name in self.columns))
        both = after.join(old, on=keys, how="left", nulls_equal=True, maintain_order="left")
        return pl.concat(
            both.filter(pl.col(f"__{name}")).select(
                pl.col(ROW).alias("row"),
                pl.lit(name).alias("column"),
                pl.lit(None, pl.String).alias("before"),
                pl.col(name).cast(pl.String).alias("after"),
            )
            for name in self.columns
        )


def _reasons(frame: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    return frame.select(ROW, reason.alias("reason")).filter(pl.col("reason").is_not_null())
