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
    """A part of a table that any worker can read independently: a file, a range of keys. Picklable."""

    @property
    def origin(self) -> str:
        """Where its rows come from, for people: a path or an address without secrets."""

    @property
    def parquet(self) -> str | None:
        """The path of a Parquet file that can be used as it lies; None if `read` must be called."""

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of bounded size: rows, and ``line: int64, text: str, reason: str`` of what could not be read as one.

        Every batch of every piece has the columns and types of `TableSource.schema`. Raises `DataError` if the piece
        as a whole cannot be read.
        """


@runtime_checkable
class TableSource(Protocol):
    """Where the rows of a table come from. Built with the YAML's params and ``data_root: Path``."""

    def state(self) -> Any:
        """JSON values that change when the source changes; cheap (names, sizes, times), no heavy import."""

    def schema(self) -> Mapping[str, pl.DataType]:
        """Columns and types of the whole table; raises `DataError` if the pieces disagree or there are none."""

    def pieces(self) -> Sequence[Piece]:
        """The parts, in a stable order."""

    def describe(self) -> dict[str, Any]:
        """JSON values worth keeping beside the rows: path, licence, address."""


@runtime_checkable
class RowStep(Protocol):
    """A cleaning step of tables that looks at one row at a time: it runs part by part. Picklable."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type, and the closest ones."""

    def rewrites(self, schema: Mapping[str, pl.DataType]) -> Sequence[str]:
        """The columns whose values `change` may rewrite: the report counts rows in which one did change."""

    def change(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The rows with values rewritten: as many, in the same order.

        It may add columns for `refuse` to look at; their names begin with ``__``, and nobody else sees them.
        """

    def refuse(self) -> pl.Expr | None:
        """The reason (str) for which a row is refused, else null; None if the step refuses nothing.

        Evaluated on what `change` gave. The reason is best a literal, which costs nothing for the rows that are kept:
        the row's values are written beside it.
        """


@runtime_checkable
class KeyStep(Protocol):
    """A cleaning step of tables that keeps the first of the rows with equal keys, over all parts."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing."""

    def keys(self, schema: Mapping[str, pl.DataType]) -> Sequence[pl.Expr]:
        """What must differ between two rows."""


@runtime_checkable
class WholeStep(Protocol):
    """A cleaning step of tables that must see all rows at once (gaps of a series, near-equal texts): in memory."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows that go on, new ones among them (their ``_row`` is null), and ``_row: int64, reason: str`` of those
        refused."""


@runtime_checkable
class FillingStep(Protocol):
    """A `WholeStep` that fills in values, and reports which."""

    def filled(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """``row, column, before, after`` of each value that was filled in, as text; of rows that a step made, too."""


@runtime_checkable
class FittedStep(Protocol):
    """A cleaning step of tables that learns from the training split; it is applied in fit and transform."""

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def looks_at(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns whose numbers, and those whose categories, `fit` summarises: one pass does it for all steps."""

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """JSON values learned from the rows of the training split."""

    def operations(self, fitted: Mapping[str, Any]) -> Sequence[Operation]:
        """What is done to every row, in this order, here and in serving; none if rows are only refused."""

    def refuse(self, fitted: Mapping[str, Any]) -> pl.Expr | None:
        """The reason (str) for which a row of the *training* split is refused, else null.

        Evaluated before `operations`.
        """


TableStep = RowStep | KeyStep | WholeStep | FittedStep
"""A cleaning step of tables, of whichever kind."""


@runtime_checkable
class TableFeatures(Protocol):
    """Rows of a table -> arrays or columns to train on. Fitted on the training split only; fitted values are JSON."""

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Rules that every use case with these features shares."""

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Values learned from the rows of the training split."""

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split into `folder`; returns facts (rows, bytes).

        Either arrays (``inputs.npy`` and, unless `data.label` names a column, ``targets.npy``) or ``part-*.parquet``.
        """

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same values."""

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """Stored rows in the form that a client sends them.

        Args:
            rows: Of one split, before the fitted steps, which serving does by itself.
            numbers: int64 [N], which: their lines of ``ids.parquet``.
            fitted: What `fit` learned.
        """


@runtime_checkable
class RowFeatures(Protocol):
    """Features of a table that give one row for each row: all splits are made in one pass over the parts. Picklable."""

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Rules that every use case with these features shares."""

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` naming a column that is missing or of the wrong type."""

    def looks_at(self, schema: Mapping[str, pl.DataType], label: str | None) -> tuple[Sequence[str], Sequence[str]]:
        """The columns whose numbers, and those whose categories, `fit_rows` summarises."""

    def fit_rows(
        self, rows: TableRows, ctx: RunContext, *, label: str | None, operations: Sequence[Operation]
    ) -> dict[str, Any]:
        """Values learned from the rows of the training split, to which the operations have been done."""

    def express(self, fitted: Mapping[str, Any]) -> Sequence[pl.Expr]:
        """The columns to train on, named, each a value a row, which is never null."""

    def kernels(self, fitted: Mapping[str, Any]) -> Sequence[Kernel]:
        """Some of these columns, as what computes them without Polars."""

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same values."""

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """Stored rows in the form that a client sends them.

        Args:
            rows: Of one split, before the fitted steps, which serving does by itself.
            numbers: int64 [N], which: their lines of ``ids.parquet``.
            fitted: What `fit` learned.
        """
