"""Input codec of time series: rows -> windows of numbers, identical in training and serving."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from lepton_tasks.codecs.fields import Field
from lepton_tasks.codecs.json_rows import JsonRequests, json_object
from lepton_tasks.core.errors import DataError

Calendar = Literal["hour", "weekday", "month"]

_PERIODS: dict[Calendar, int] = {"hour": 24, "weekday": 7, "month": 12}


@dataclasses.dataclass(frozen=True)
class SeriesCodec(JsonRequests):
    """The latest rows of a time series.

    A request is ``{"rows": [{"<time>": "2024-01-01T00:00", "<column>": 1.5, ...}, ...]}`` in chronological order, with
    at least `window` rows plus the longest lag; earlier rows are ignored.

    Args:
        time: Name of the time column; UTC if a value has no zone.
        step: Seconds between two rows.
        columns: Names of the numeric columns.
        mean: Mean of each column, for scaling.
        std: Standard deviation of each column, for scaling.
        categories: Names of the text columns, and the values with one-hot features.
        window: Rows per input.
        lags: Lags of the column `lagged` added as features, in rows.
        lagged: One of `columns`.
        calendar: Time components added as sine and cosine.
    """

    time: str
    step: Annotated[int, pydantic.Field(ge=1)]
    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: Annotated[int, pydantic.Field(ge=1)]
    categories: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    lags: tuple[Annotated[int, pydantic.Field(ge=1)], ...] = ()
    lagged: str = ""
    calendar: tuple[Calendar, ...] = ()

    @property
    def width(self) -> int:
        """Number of features per row."""
        one_hot = sum(map(len, self.categories.values()))
        return len(self.columns) + one_hot + len(self.lags) + 2 * len(self.calendar)

    @property
    def history(self) -> int:
        """Rows required before a window."""
        return max(self.lags, default=0)

    def features(self, times: np.ndarray, numbers: np.ndarray, words: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Features of consecutive rows of one series, float32 [N, width]; NaN if a lag reaches before the first row.

        Args:
            times: int64 [N], seconds since 1970.
            numbers: float64 [N, columns].
            words: The N values of each text column; unknown values have all-zero features.
        """
        scaled = (numbers - np.asarray(self.mean)) / np.asarray(self.std)
        parts = [scaled]
        parts += [
            np.asarray(words[name])[:, np.newaxis] == np.asarray(known) for name, known in self.categories.items()
        ]
        if self.lags:
            past = scaled[:, self.columns.index(self.lagged)]
            for lag in self.lags:
                parts.append(np.concatenate([np.full(min(lag, len(past)), np.nan), past[:-lag]])[:, np.newaxis])
        for part in self.calendar:
            angle = _since_start(part, times) * (2 * math.pi / _PERIODS[part])
            parts.append(np.stack([np.sin(angle), np.cos(angle)], axis=1))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def decode(self, payload: bytes) -> np.ndarray:
        """The last window of a request's rows, float32 [window, width]; raises `DataError` for invalid rows."""
        rows = _rows_of(payload)
        needed = self.window + self.history
        if len(rows) < needed:
            raise DataError(f"{len(rows)} rows; {needed} are needed.", where="rows")
        rows, first = rows[-needed:], len(rows) - needed
        times = np.array([_time(row.get(self.time), f"rows[{first + i}].{self.time}") for i, row in enumerate(rows)])
        if uneven := np.flatnonzero(np.diff(times) != self.step).tolist():
            where = f"rows[{first + uneven[0] + 1}].{self.time}"
            raise DataError(f"not {self.step} seconds after the previous row.", where=where)
        numbers = [[_number(r.get(c), f"rows[{first + i}].{c}") for c in self.columns] for i, r in enumerate(rows)]
        words = {
            name: _truncated([str(row.get(name)) for row in rows], known) for name, known in self.categories.items()
        }
        return self.features(times, np.array(numbers, np.float64), words)[-self.window :]

    def fields(self) -> list[Field]:
        """The rows and their columns."""
        columns = [Field(self.time, "time", required=True)]
        columns += [Field(name, "float", required=True) for name in self.columns]
        columns += [Field(name, "text", choices=known) for name, known in self.categories.items()]
        return [Field("rows", "rows", required=True, columns=tuple(columns))]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """The numbers of the last row, to 6 digits, and its categories; null if not in the training data."""
        last, width = sample[-1].tolist(), len(self.columns)
        scaled = zip(self.columns, last[:width], self.mean, self.std, strict=True)
        values: dict[str, Any] = {name: float(f"{value * std + mean:.6g}") for name, value, mean, std in scaled}
        for name, known in self.categories.items():
            marks = last[width : width + len(known)]
            values[name] = known[marks.index(1.0)] if 1.0 in marks else None
            width += len(known)
        return values


def _since_start(part: Calendar, times: np.ndarray) -> np.ndarray:
    """Whole hours of the day, days of the week (Monday: 0), or months of the year."""
    if part == "hour":
        return times // 3600 % 24
    if part == "weekday":
        return (times // 86_400 + 3) % 7  # 1970 began on a Thursday
    return times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12


def _rows_of(payload: bytes) -> list[dict[str, Any]]:
    rows = json_object(payload).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("there is no list of objects named 'rows'.", fix='Send {"rows": [{...}, ...]}.')
    return rows


def _time(value: Any, where: str) -> int:
    try:
        time = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{value!r} is not a time.", where=where, fix="Example: 2024-01-31T13:00:00.") from error
    return int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp())


def _truncated(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """Words cut to one letter more than the longest known one, as NumPy allocates the longest length for each."""
    longest = 1 + max(map(len, known), default=0)
    return [word[:longest] for word in words]


def _number(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise DataError(f"{value!r} is not a number.", where=where)
