"""Features `windows`: past windows of time series and the values that follow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.series import Calendar, SeriesCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.extractors.expectations import WINDOWS
from lepton_tasks.data.requests import json_request
from lepton_tasks.data.tables.arrays import ArrayFile
from lepton_tasks.data.tables.rows import ROW, TableRows
from lepton_tasks.data.tables.steps.column_checks import check_columns
from lepton_tasks.data.tables.steps.series import check_time

_CHUNK = 4_096  # windows computed at once

Count = Annotated[int, pydantic.Field(ge=1)]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Scaled windows of consecutive rows, and the values that follow.

    No window spans a gap in time, a row with a missing value, two series or two splits: splits are processed
    separately, so the first window of a later split starts after the boundary. A split's rows are held in memory.

    Args:
        time: Time column.
        columns: Numeric input columns.
        target: The column to forecast; add it to `columns` to use its past.
        window: Input rows.
        horizon: Rows to forecast.
        stride: Rows between the starts of two windows.
        group: Columns that identify a series.
        categories: Categorical input columns, one-hot encoded with the values of the training split.
        lags: Additional inputs: the target this many rows before each row.
        calendar: Time features as sine and cosine: ``hour``, ``weekday``, ``month``.
    """

    time: str
    columns: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    target: str
    window: Count = 24
    horizon: Count = 1
    stride: Count = 1
    group: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    lags: tuple[Count, ...] = ()
    calendar: tuple[Calendar, ...] = ()

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""
        return WINDOWS[stage]

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` for a missing column, an unsuitable type, or a label."""
        check_time(schema, self.time)
        numbers = [*self.columns, self.target]
        check_columns(numbers, schema, where="columns", suits=lambda dtype: dtype.is_numeric(), wanted="numbers")
        texts = [*self.categories]
        check_columns(texts, schema, where="categories", suits=lambda dtype: dtype == pl.String, wanted="text")
        check_columns(self.group, schema, where="group")
        if self.lags and self.target not in self.columns:
            raise ConfigError(
                f"lags of {self.target!r}, which is not among `columns`.", where="lags", fix="Add it there."
            )
        if label is not None:
            raise ConfigError(
                f"the features `windows` learn the column {self.target!r}, not a label.",
                where="data.label",
                fix="Set `label: null`.",
            )

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The usual time step, mean and standard deviation or values of each column, and the windows' shape.

        Raises:
            DataError: no two rows are consecutive, or a column has no value.
        """
        series = self._series(rows)
        step = self._usual_step(series)
        for name in dict.fromkeys([*self.columns, self.target]):
            if series[name].null_count() == series.height:
                raise DataError(
                    f"{name!r} has no value in the training split.",
                    where="features.params.columns",
                    fix="Remove it, or choose another split method.",
                )
        numbers = series.select(self.columns).cast(pl.Float64)
        spreads = [spread or 1.0 for spread in numbers.select(pl.all().std(ddof=0)).row(0)]
        known = {name: series[name].drop_nulls().unique().sort().to_list() for name in self.categories}
        target = series[self.target].cast(pl.Float64)
        fitted = {
            "step_seconds": step,
            "columns": list(self.columns),
            "mean": list(numbers.select(pl.all().mean()).row(0)),
            "std": spreads,
            "categories": known,
            "target": self.target,
            "target_mean": target.mean(),
            "target_std": target.std(ddof=0) or 1.0,
            "window": self.window,
            "horizon": self.horizon,
        }
        return fitted | {"width": SeriesCodec(**self.codec(fitted)[1]).width}

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split as arrays.

        ``inputs.npy``, float32 [N, window, D], scaled: columns, categories, lags, calendar; ``targets.npy``, float32
        [N, horizon], in the target's unit; ``ids.parquet``, the row of each first target.

        Raises:
            DataError: no window fits.
        """
        series, codec = self._series(rows), SeriesCodec(**self.codec(fitted)[1])
        features = codec.features(
            series[self.time].to_numpy(),
            series.select(self.columns).cast(pl.Float64).fill_null(np.nan).to_numpy(),
            {name: series[name].fill_null("").to_list() for name in self.categories},
        )
        targets = series[self.target].cast(pl.Float32).fill_null(np.nan).to_numpy()
        starts = self._starts(series, fitted["step_seconds"], codec.history)
        if not len(starts):
            length = codec.history + self.window + self.horizon
            raise DataError(
                f"no {length} rows of the split {folder.name!r} follow each other without a gap.",
                where="features.params",
                fix="Split by time (`data.split.method: time`), or take a shorter window.",
            )
        past, future = np.arange(self.window), self.window + np.arange(self.horizon)
        with (
            ArrayFile(folder / "inputs.npy", np.float32, (self.window, codec.width)) as inputs,
            ArrayFile(folder / "targets.npy", np.float32, (self.horizon,)) as outcomes,
        ):
            for chunk in np.array_split(starts, -(-len(starts) // _CHUNK)):
                inputs.append(features[chunk[:, np.newaxis] + past])
                outcomes.append(targets[chunk[:, np.newaxis] + future])
        series.select(pl.col(ROW).gather(starts + self.window).alias("row")).write_parquet(folder / "ids.parquet")
        return {"rows": len(starts), "bytes": 4 * len(starts) * (self.window * codec.width + self.horizon)}

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`SeriesCodec` with the fitted scales."""
        return "series", {
            "time": self.time,
            "step": fitted["step_seconds"],
            "columns": list(self.columns),
            "mean": fitted["mean"],
            "std": fitted["std"],
            "categories": fitted["categories"],
            "window": self.window,
            "lags": list(self.lags),
            "lagged": self.target if self.lags else "",
            "calendar": list(self.calendar),
        }

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The rows of each window, and the rows before it that its lags need."""
        series, names = self._series(rows), [self.time, *self.columns, *self.categories]
        length = self.window + SeriesCodec(**self.codec(fitted)[1]).history
        order = {number: position for position, number in enumerate(series[ROW])}
        timed = series.with_columns(pl.from_epoch(self.time, time_unit="s")).select(names)
        found = []
        for number in numbers.tolist():
            window = timed.slice(order[number] - length, length)
            found.append(
                b'{"rows": [' + b", ".join(json_request(r, names) for r in window.iter_rows(named=True)) + b"]}"
            )
        return found

    def _series(self, rows: TableRows) -> pl.DataFrame:
        """All rows in the order of series and time: times in seconds since 1970, numbers that are none as null."""
        names = dict.fromkeys([*self.group, self.time, *self.columns, self.target, *self.categories])
        series = pl.concat(rows.select(list(names)).frames())
        seconds = pl.col(self.time).cast(pl.Datetime("us")).dt.epoch("s")
        odd = [name for name in dict.fromkeys([*self.columns, self.target]) if series.schema[name].is_float()]
        finite = [pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in odd]
        return series.with_columns(seconds, *finite).sort(*self.group, self.time, ROW)

    def _usual_step(self, series: pl.DataFrame) -> int:
        """The most frequent time step within a series, in seconds."""
        steps = series.select(pl.col(self.time).diff().over(self.group or pl.lit(0))).to_series().drop_nulls()
        if not len(steps):
            raise DataError("the training split has no two rows of one series.", where="features.params.group")
        if (step := int(steps.mode().sort()[0])) == 0:
            raise DataError(
                f"most rows have the {self.time!r} of the row before, in whole seconds.",
                where="features.params.time",
                fix="Name the series column in `group`, or make the rows regular with the step `regular`.",
            )
        return step

    def _starts(self, series: pl.DataFrame, step: int, history: int) -> np.ndarray:
        """The first row of each window, int64."""
        whole = [pl.col(name).is_not_null() for name in dict.fromkeys([*self.columns, self.target, *self.categories])]
        follows = pl.col(self.time).diff() == step
        if self.group:
            follows &= functools.reduce(
                lambda a, b: a & b, (pl.col(n).eq_missing(pl.col(n).shift()) for n in self.group)
            )
        marks = series.select(whole=pl.all_horizontal(whole), follows=follows.fill_null(value=False))
        usable = marks["whole"].to_numpy()
        linked = usable & marks["follows"].to_numpy()
        linked[1:] &= usable[:-1]
        run = np.cumsum(~linked)  # rows with the same number are consecutive
        length = history + self.window + self.horizon
        begins = np.arange(max(0, len(run) - length + 1))
        fits = (run[begins] == run[begins + length - 1]) & usable[begins]
        place = begins - np.searchsorted(run, run[begins])
        starts: np.ndarray = begins[fits & (place % self.stride == 0)] + history
        return starts
