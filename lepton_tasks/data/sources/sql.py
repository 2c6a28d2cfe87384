"""Source of SQL tables and queries, read in key ranges."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import functools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import pydantic

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.sources.columns import TYPES, Schema, TypeName, common_schema, rejections, type_name, widened
from lepton_tasks.data.sources.database import Database

if TYPE_CHECKING:
    import sqlalchemy as sa

_SAMPLE_ROWS = 10_000
_BATCH_ROWS = 20_000

# Decimals become float64, since features are floats anyway.
_KINDS: dict[type, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    decimal.Decimal: pl.Float64(),
    str: pl.String(),
    uuid.UUID: pl.String(),
    dict: pl.String(),  # JSON
    list: pl.String(),
    dt.datetime: pl.Datetime("us"),
    dt.date: pl.Date(),
}


class Sql:
    """Rows of a table or query in key order. Values that do not match their column's type are rejected.

    Key ranges are read by different workers on separate connections; concurrent writes may or may not be visible.

    Args:
        key: A column to order rows by, preferably unique and indexed.
        data_root: Set by the environment; base folder of relative SQLite paths.
        table: The table, optionally with its schema (``sales.orders``).
        query: Instead of a table, a SELECT statement.
        url: SQLAlchemy URL of the database, without a password, since it is stored with the data.
        url_variable: Environment variable with the URL, if it is secret or depends on the machine.
        rows_per_piece: Rows per piece.
        changed: A column that increases when a row changes, such as a modification time: with the row count and the
            smallest and largest key, its maximum determines whether to read again.
        types: ``int``, ``float``, ``bool``, ``text``, ``date`` or ``datetime`` of a column; others are inferred from
            the first 10,000 rows.
    """

    def __init__(
        self,
        key: str,
        data_root: Path,
        table: str | None = None,
        query: str | None = None,
        url: str | None = None,
        url_variable: str = "LEPTON_SQL_URL",
        rows_per_piece: Annotated[int, pydantic.Field(ge=1)] = 500_000,
        changed: str | None = None,
        types: dict[str, TypeName] | None = None,
    ) -> None:
        if (table is None) == (query is None):
            raise ConfigError("give either `table` or `query`.", where="data.source.params")
        self._database = Database(url, url_variable, str(data_root))
        self._table, self._query = table, query
        self._key, self._changed, self._rows, self._types = key, changed, rows_per_piece, types or {}

    def state(self) -> dict[str, Any]:
        """Changes with the row count, the smallest and largest key, and the maximum of `changed`."""
        import sqlalchemy as sa

        rows, ends = self._selectable(), [(self._key, False), (self._key, True)]
        ends += [(self._changed, True)] if self._changed else []
        facts = []
        with self._database.connect() as connection:
            facts.append(connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar())
            for (
                name,
                last,
            ) in ends:  # by their order, since not every type that has one has min and max (PostgreSQL's uuid)
                column: sa.ColumnClause[Any] = sa.column(name)
                ordered = sa.select(column).select_from(rows).where(column.is_not(None))
                end = ordered.order_by(column.desc() if last else column).limit(1)
                facts.append(connection.execute(end).scalar())
        return {"database": self._database.shown, "of": self._table or self._query, "facts": [*map(str, facts)]}

    def schema(self) -> Schema:
        """The columns, and the types of the first rows."""
        return self._schema

    def pieces(self) -> list[SqlPiece]:
        """Key ranges of about equal size, and one piece for rows without a key, if any."""
        import sqlalchemy as sa

        key: sa.ColumnClause[Any] = sa.column(self._key)
        rows = self._selectable()
        number = (sa.func.row_number().over(order_by=key) - 1).label("number")
        numbered = sa.select(key, number).select_from(rows).where(key.is_not(None)).subquery()
        starts = sa.select(numbered.c[self._key]).where(numbered.c.number % self._rows == 0).order_by(numbered.c.number)
        with self._database.connect() as connection:
            bounds = list(dict.fromkeys(connection.execute(starts).scalars()))
            orphans = connection.execute(sa.select(key).select_from(rows).where(key.is_(None)).limit(1)).first()
        of = self._table or "the query"
        ranges: list[tuple[Any, Any]] = list(zip(bounds, [*bounds[1:], None], strict=True))
        origins = [f"{self._database.shown} {of}, {self._key} from {start}" for start, _ in ranges]
        if orphans is not None:
            ranges.append((None, None))
            origins.append(f"{self._database.shown} {of}, no {self._key}")
        return [SqlPiece(self, *bounds, self._schema, origin) for bounds, origin in zip(ranges, origins, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Database and table, without secrets."""
        return {"database": self._database.shown, "table": self._table, "query": self._query, "key": self._key}

    def between(self, start: Any, stop: Any) -> Iterator[Sequence[sa.RowMapping]]:
        """Rows with `start` <= key < `stop`; rows without a key if both are None."""
        import sqlalchemy as sa

        key: sa.ColumnClause[Any] = sa.column(self._key)
        if start is None:
            return self.rows(key.is_(None))
        return self.rows(key >= start, *(() if stop is None else (key < stop,)))

    def rows(self, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> Iterator[Sequence[sa.RowMapping]]:
        """Rows that meet the conditions, in key order, in batches."""
        import sqlalchemy as sa

        select = sa.select(sa.text("*")).select_from(self._selectable()).where(*conditions)
        select = select.order_by(sa.column(self._key)).limit(limit)
        with self._database.connect() as connection:
            result = connection.execution_options(stream_results=True, yield_per=_BATCH_ROWS).execute(select)
            yield from result.mappings().partitions()

    @functools.cached_property
    def _schema(self) -> Schema:
        kinds: dict[str, dict[type, None]] = {}
        for batch in self.rows(limit=_SAMPLE_ROWS):
            for row in batch:
                for name, value in row.items():
                    kinds.setdefault(name, {})[type(value)] = None
        if not kinds:
            raise DataError("there are no rows.", where=f"{self._database.shown} {self._table or 'query'}")
        samples = [
            (self._database.shown, {name: _type_of(name, list(found), self._types) for name, found in kinds.items()})
        ]
        return common_schema(samples, self._types)

    def _selectable(self) -> sa.FromClause:
        import sqlalchemy as sa

        if self._query is not None:
            return sa.text(self._query.strip().rstrip(";")).columns().subquery("rows")
        *schema, name = str(self._table).split(".", 1)
        return sa.table(name, schema=schema[0] if schema else None)


@dataclasses.dataclass(frozen=True)
class SqlPiece:
    """Rows with `start` <= key < `stop`; rows without a key if both are None."""

    source: Sql
    start: Any
    stop: Any
    types: Schema
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of about 20,000 rows."""
        yield pl.DataFrame(schema=self.types), rejections([])
        for batch in self.source.between(self.start, self.stop):
            columns = {name: [row[name] for row in batch] for name in self.types}
            series, wrong = [], dict[int, str]()
            for name, dtype in self.types.items():
                values, reasons = _converted(name, columns[name], dtype)
                series.append(values)
                wrong = reasons | wrong
            rows = pl.DataFrame(series)
            if wrong:
                rows = rows.with_row_index("__i").filter(~pl.col("__i").is_in(list(wrong))).drop("__i")
            lines = [(None, json.dumps(dict(batch[i]), default=str), reason) for i, reason in sorted(wrong.items())]
            yield rows, rejections(lines)


def _converted(name: str, values: list[Any], dtype: pl.DataType) -> tuple[pl.Series, dict[int, str]]:
    """Convert values to the column's type; invalid ones become null, with reasons by index."""
    if (convert := _CONVERTED.get(dtype)) is not None:
        values = [convert(value) for value in values]
    try:
        return pl.Series(name, values, dtype=dtype, strict=True), {}
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        wrong = {i: value for i, value in enumerate(values) if not _fits(value, dtype)}
        kept = [None if i in wrong else value for i, value in enumerate(values)]
        reasons = {i: f"column {name!r}: {str(value)[:80]!r} is not {type_name(dtype)}" for i, value in wrong.items()}
        return pl.Series(name, kept, dtype=dtype, strict=True), reasons


def _fits(value: Any, dtype: pl.DataType) -> bool:
    try:
        pl.Series([value], dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return False
    return True


def _type_of(name: str, kinds: Sequence[type], declared: Mapping[str, TypeName]) -> pl.DataType:
    """The common type of the values' Python types."""
    if name in declared:
        return TYPES[declared[name]]
    found: pl.DataType = pl.Null()
    for kind in kinds:
        dtype = pl.Null() if kind is type(None) else _KINDS.get(kind)
        if dtype is None:
            raise DataError(
                f"column {name!r} holds values of the kind {kind.__name__}.",
                where="data.source.params",
                fix=f"Leave it out with a `query`, or declare `types: {{{name}: text}}`.",
            )
        wide = widened(found, dtype)
        if wide is None:
            raise DataError(
                f"column {name!r} holds values of several kinds: {', '.join(k.__name__ for k in kinds)}.",
                where="data.source.params",
                fix=f"Declare it: `types: {{{name}: text}}`.",
            )
        found = wide
    return found


def _text(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _in_utc(value: Any) -> Any:
    aware = isinstance(value, dt.datetime) and value.tzinfo is not None
    return value.astimezone(dt.UTC).replace(tzinfo=None) if aware else value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, decimal.Decimal) else value


_CONVERTED: dict[pl.DataType, Callable[[Any], Any]] = {
    pl.String(): _text,
    pl.Float64(): _number,
    pl.Datetime("us"): _in_utc,
}
