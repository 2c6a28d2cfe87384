"""Fitted operations as data, identical for table parts, single rows and the ONNX graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import polars as pl


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation on one column. NaN counts as missing.

    Attributes:
        kind: ``fill`` missing values with `value`; ``clip`` numbers to [`low`, `high`]; ``missing`` and ``outside``
            write 1.0 or 0.0 into the column `into`.
        column: The input column.
    """

    kind: Literal["fill", "clip", "missing", "outside"]
    column: str
    value: Any = None
    low: float | None = None
    high: float | None = None
    into: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def expression(self, dtype: pl.DataType) -> pl.Expr:
        """Expression of the result; of the column's type, unless a fill value or limit requires a float."""
        column = pl.col(self.column)
        known = column.is_not_null() & column.is_not_nan() if dtype.is_float() else column.is_not_null()
        if self.kind == "fill":
            return pl.when(known).then(column).otherwise(pl.lit(self.value)).alias(self.column)
        if self.kind == "missing":
            return (~known).cast(pl.Float64).alias(str(self.into))
        column = column.cast(pl.Float64)
        if self.kind == "clip":
            return column.clip(self.low, self.high).alias(self.column)  # nulls and NaN are unchanged
        return (known & ~column.is_between(self.low, self.high)).cast(pl.Float64).alias(str(self.into))


def apply_operations(frame: pl.LazyFrame, operations: Sequence[Operation]) -> pl.LazyFrame:
    """The rows after the operations, in order."""
    for operation in operations:
        frame = frame.with_columns(operation.expression(frame.collect_schema()[operation.column]))
    return frame
