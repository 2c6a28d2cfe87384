"""Input codec of tables: a row as JSON -> the inputs of the ONNX graph. NumPy only."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import math
import zlib
from typing import Any, Literal

import numpy as np

from lepton_tasks.codecs.fields import Field
from lepton_tasks.codecs.json_rows import JsonRequests, json_object
from lepton_tasks.codecs.observing import MOST_VALUES
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.registry import did_you_mean

UNKNOWN_CODE, MISSING_CODE, FIRST_CODE = 0, 1, 2
"""Codes of categories: what training did not know, what is missing, and the first of the others."""


def bucket_of(text: str, buckets: int) -> int:
    """The code of a category that is hashed: CRC-32 of its UTF-8, the same everywhere."""
    return zlib.crc32(text.encode(errors="surrogatepass")) % buckets + FIRST_CODE


@dataclasses.dataclass(frozen=True)
class TabularColumn:
    """A column of a request.

    Args:
        name: Its name.
        type: What a value must be.
        required: Whether it must be there: no value was missing in training.
        values: The categories with a code of their own, in order; None if it is no category.
        buckets: Number of hashed codes, instead of `values`.
    """

    name: str
    type: Literal["int", "float", "bool", "text", "time"]
    required: bool = False
    values: tuple[str, ...] | None = None
    buckets: int | None = None

    def number(self, value: Any) -> float:
        """What stands for a JSON value; NaN, or `MISSING_CODE` of a category, for null.

        Raises:
            DataError: the value is of another type.
        """
        category = self.values is not None or self.buckets is not None
        if value is None:
            if self.required:
                raise self._error("no value; in training it always had one")
            return float(MISSING_CODE) if category else math.nan
        checked = self._checked(value)
        return float(self._code(_text(checked))) if category else float(checked)

    def told(self, value: Any) -> Any:
        """A JSON value of a row that was decoded, in the column's type; times in seconds since 1970."""
        return None if value is None else self._checked(value)

    def _checked(self, value: Any) -> Any:
        if self.type == "text":
            if isinstance(value, str):
                return value
        elif self.type == "time":
            return self._seconds(value)
        elif self.type == "bool":
            if isinstance(value, bool):
                return value
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            return self._finite(value)
        raise self._error(f"{value!r} is not of the type {self.type}")

    def _finite(self, value: float | str) -> float | int:
        try:
            number = float(value)
        except (ValueError, OverflowError) as error:
            raise self._error(f"{value!r} is not of the type {self.type}") from error
        if not math.isfinite(number):
            raise self._error(f"{value!r} is not a finite number")
        if self.type == "float":
            return number
        if number != int(number):
            raise self._error(f"{value!r} is not a whole number")
        return int(value) if isinstance(value, int) else int(number)

    def _seconds(self, value: Any) -> float:
        try:
            time = dt.datetime.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise self._error(f"{value!r} is not an ISO 8601 time") from error
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()

    def _code(self, text: str) -> int:
        return bucket_of(text, self.buckets) if self.buckets else self._codes.get(text, UNKNOWN_CODE)

    @functools.cached_property
    def _codes(self) -> dict[str, int]:
        return {value: code for code, value in enumerate(self.values or (), start=FIRST_CODE)}

    def _error(self, what: str) -> DataError:
        return DataError(f"{what}.", where=self.name, fix="Send the columns as they are in the training data.")


@dataclasses.dataclass(frozen=True)
class TabularCodec(JsonRequests):
    """One table row, ``{"<column>": value, ...}``.

    Args:
        columns: The columns in the order of the graph's input.
        ignored: Further columns of the table that a request may hold, and that are not looked at.
    """

    columns: tuple[TabularColumn, ...]
    ignored: tuple[str, ...] = ()

    def decode(self, payload: bytes) -> np.ndarray:
        """The row as float64 [columns]: numbers, seconds since 1970, and codes of categories; NaN where one is missing.

        Raises:
            DataError: not a JSON object, an unknown or missing column, or a value of the wrong type.
        """
        row = json_object(payload)
        known = {column.name for column in self.columns}.union(self.ignored)
        for name in row:
            if name not in known:
                raise DataError(f"there is no column {name!r}.", where=name, fix=did_you_mean(name, known))
        return np.array([column.number(row.get(column.name)) for column in self.columns], np.float64)

    def fields(self) -> list[Field]:
        """One a column."""
        return [Field(c.name, c.type, required=c.required, choices=c.values or ()) for c in self.columns]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """The row's values by column, in the columns' types."""
        row = json_object(payload)
        return {column.name: column.told(row.get(column.name)) for column in self.columns[:MOST_VALUES]}


def _text(value: Any) -> str:
    """A category as text: what Polars writes for a column of this type."""
    return str(value).lower() if isinstance(value, bool) else str(value)
