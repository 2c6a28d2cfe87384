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
from lepton_tasks.codecs.monitored_values import MAX_VALUES
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.registry import did_you_mean

UNKNOWN_CODE, MISSING_CODE, FIRST_CODE = 0, 1, 2
"""Category codes: not in the training data, missing, and the first code of a known category."""


def bucket_of(text: str, buckets: int) -> int:
    """The code of a hashed category: CRC-32 of its UTF-8, so the same on every platform."""
    return zlib.crc32(text.encode(errors="surrogatepass")) % buckets + FIRST_CODE


@dataclasses.dataclass(frozen=True)
class TabularColumn:
    """A column of a request.

    Args:
        name: Column name.
        type: Type of its values.
        required: Whether a value is required, as none was missing in training.
        values: Categories with their own code, in order; None for a numeric column.
        buckets: Number of hash buckets, instead of `values`.
    """

    name: str
    type: Literal["int", "float", "bool", "text", "time"]
    required: bool = False
    values: tuple[str, ...] | None = None
    buckets: int | None = None

    def encode(self, value: Any) -> float:
        """The number that represents a JSON value; for null, NaN or the category `MISSING_CODE`.

        Raises:
            DataError: the value has the wrong type.
        """
        category = self.values is not None or self.buckets is not None
        if value is None:
            if self.required:
                raise self._error("no value; in training it always had one")
            return float(MISSING_CODE) if category else math.nan
        value = self._validated(value)
        return float(self._code(_text(value))) if category else float(value)

    def typed_value(self, value: Any) -> Any:
        """A valid JSON value converted to the column's type; times in seconds since 1970."""
        return None if value is None else self._validated(value)

    def _validated(self, value: Any) -> Any:
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
        ignored: Further columns that a request may contain.
    """

    columns: tuple[TabularColumn, ...]
    ignored: tuple[str, ...] = ()

    def decode(self, payload: bytes) -> np.ndarray:
        """The row as float64 [columns]: numbers, seconds since 1970 and category codes; NaN for missing numbers.

        Raises:
            DataError: not a JSON object, an unknown or missing column, or a value of the wrong type.
        """
        row = json_object(payload)
        known = {column.name for column in self.columns}
        for name in row:
            if name not in known and name not in self.ignored:
                raise DataError(f"there is no column {name!r}.", where=name, fix=did_you_mean(name, known))
        return np.array([column.encode(row.get(column.name)) for column in self.columns], np.float64)

    def fields(self) -> list[Field]:
        """One field per column."""
        return [Field(c.name, c.type, required=c.required, choices=c.values or ()) for c in self.columns]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """The row's values by column, in the columns' types."""
        row = json_object(payload)
        return {column.name: column.typed_value(row.get(column.name)) for column in self.columns[:MAX_VALUES]}


def _text(value: Any) -> str:
    """A category as text, as Polars formats this type."""
    return str(value).lower() if isinstance(value, bool) else str(value)
