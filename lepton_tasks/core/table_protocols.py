"""Protocols of table sources, cleaning steps and features; `core/catalogue.py` lists the implementations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.use_case import Expectation
    from lepton_tasks.data.tables.kernels import Kernel
    from lepton_tasks.data.tables.operations import Operation
    from lepton_tasks.data.tables.rows import TableRows


@runtime_checkable
class Piece(Protocol):
    """A part of a table source that any worker can read independently: a file, a key range. Picklable."""

    @property
    def origin(self) -> str:
        """Origin of its rows for messages: a path or an address without secrets."""

    @property
    def parquet(self) -> str | None:
        """Path of a Parquet file that is used in place; None if `read` must be called."""

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of bounded size: rows, and ``line: int64, text: str, reason: str`` of unreadable rows.

        Every batch of every piece has the columns and types of `TableSource.schema`. Raises `DataError` if the piece
        as a whole cannot be read.
        """


@runtime_checkable
class TableSource(Protocol):
    """Source of table rows. Built with the YAML's params and ``data_root: Path``."""

    def state(self) -> Any:
        """JSON values that change when the source changes; cheap (names, sizes, times), no heavy import."""

    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and types of the whole table; raises `DataError` if the pieces disagree or there are none."""

    def pieces(self) -> Sequence[Piece]:
        """The pieces, in a stable order."""

    def describe(self) -> dict[str, Any]:
        """Metadata to store with the rows, as JSON values: path, licence, address."""


@runtime_checkable
class RowStep(Protocol):
    """A cleaning step that handles each row independently, so it runs per partition. Picklable."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type, and the closest ones."""

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """Columns whose values `change` may modify; the report counts the rows that did change."""

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Modify values; the number and order of rows stay the same.

        It may add private columns for `refuse`, with names that begin with ``__``.
        """

    def refuse(self) -> pl.Expr | None:
        """The reason (str) to reject a row, else null; None if the step rejects nothing.

        Evaluated on the result of `change`. Prefer a literal, which costs nothing for kept rows; the row's values are
        recorded with it.
        """


@runtime_checkable
class KeyStep(Protocol):
    """A cleaning step that keeps the first of the rows with equal keys, across all partitions."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing."""

    def keys(self, schema: Mapping[str, pl.DataType]) -> Sequence[pl.Expr]:
        """Key expressions; no two kept rows have equal keys."""


@runtime_checkable
class WholeStep(Protocol):
    """A cleaning step that needs all rows in memory at once (gaps of a series, near-duplicate texts)."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The kept and new rows (``_row`` is null for new ones), and ``_row: int64, reason: str`` of rejected rows."""


@runtime_checkable
class FillingStep(Protocol):
    """A `WholeStep` that fills in values and reports them."""

    def filled(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """``row, column, before, after`` of each filled value, as text, including those of new rows."""


@runtime_checkable
class FittedStep(Protocol):
    """A cleaning step fitted on the training split; applied in the stages fit_features and transform."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def summary_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """Numeric and categorical columns whose statistics `fit` needs; computed for all steps in one pass."""

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Fit on the rows of the training split; returns JSON values."""

    def operations(self, fitted: Mapping[str, Any]) -> Sequence[Operation]:
        """Operations on every row, in order, here and in serving; none if rows are only rejected."""

    def refuse(self, fitted: Mapping[str, Any]) -> pl.Expr | None:
        """The reason (str) to reject a row of the *training* split, else null.

        Evaluated before `operations`.
        """


TableStep = RowStep | KeyStep | WholeStep | FittedStep
"""Any cleaning step of tables."""


@runtime_checkable
class TableFeatures(Protocol):
    """Converts table rows to training arrays or columns. Fitted on the training split only; fitted values are JSON."""

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Fit on the rows of the training split."""

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split into `folder`; returns facts (rows, bytes).

        Either arrays (``inputs.npy`` and, unless `data.label` names a column, ``targets.npy``) or ``part-*.parquet``.
        """

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same values."""

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """Encode stored rows as request bodies.

        Args:
            rows: Rows of one split, before the fitted steps, which serving applies itself.
            numbers: int64 [N], row numbers from ``ids.parquet``.
            fitted: The result of `fit`.
        """


@runtime_checkable
class RowFeatures(Protocol):
    """Table features computed row by row: all splits are transformed in one pass over the partitions. Picklable."""

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def summary_columns(
        self, schema: Mapping[str, pl.DataType], label: str | None
    ) -> tuple[Sequence[str], Sequence[str]]:
        """Numeric and categorical columns whose statistics `fit_rows` needs."""

    def fit_rows(
        self, rows: TableRows, ctx: RunContext, *, label: str | None, operations: Sequence[Operation]
    ) -> dict[str, Any]:
        """Fit on the rows of the training split, after the operations."""

    def feature_expressions(self, fitted: Mapping[str, Any]) -> Sequence[pl.Expr]:
        """Expressions of the feature columns, named; values are never null."""

    def kernels(self, fitted: Mapping[str, Any]) -> Sequence[Kernel]:
        """NumPy kernels that compute some of these columns instead of Polars."""

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same values."""

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """Encode stored rows as request bodies.

        Args:
            rows: Rows of one split, before the fitted steps, which serving applies itself.
            numbers: int64 [N], row numbers from ``ids.parquet``.
            fitted: The result of `fit`.
        """
