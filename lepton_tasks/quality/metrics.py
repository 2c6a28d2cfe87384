"""Great Expectations metrics from statistics of one pass over partitions, instead of an in-memory table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from lepton_tasks.core.errors import DataError, LeptonError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.conditions import (
    COLUMN_RULES,
    IGNORED_ROWS,
    MULTICOLUMN_RULES,
    PAIR_RULES,
    ROWS_WITH_NULLS,
    column,
    literals,
    row_condition,
)
from lepton_tasks.quality.one_pass import Order, Statistics, StatisticsRequest

Values = Mapping[str, Any]

SHOWN = 20
"""Number of violating values and rows in a result, as in Great Expectations."""
_SUFFIXES = ("unexpected_count", "unexpected_values", "unexpected_index_list", "unexpected_index_query")
_FILTERED = "filtered_row_count"
_UNIQUE = ("column_values.unique", "compound_columns.unique")
_ORDERED = ("column_values.increasing", "column_values.decreasing")
_OTHER_TYPE = "Let the source read it as another type, or convert it in `clean` and move the rule to `quality.cleaned`."


@dataclasses.dataclass(frozen=True)
class MetricReader:
    """Reads a metric from the statistics; `rows_key` is the key of the violating rows."""

    read: Callable[[Statistics], Any]
    rows_key: str | None = None


class MetricPlanner:
    """Collects the statistics that metrics of a table need.

    Args:
        schema: Columns and types of the table.
        identity: Column that identifies a row in results.
    """

    def __init__(self, schema: Mapping[str, pl.DataType], identity: str = ROW) -> None:
        self.request = StatisticsRequest()
        self._schema, self._identity = schema, identity
        self._empty = pl.DataFrame(schema={**schema, ROW: pl.Int64()})

    def plan(self, metric: Any) -> MetricReader | None:
        """Request a metric; returns its reader, or None if it needs the rows in memory.

        Args:
            metric: Great Expectations' ``MetricConfiguration``.

        Raises:
            DataError: a column is missing or has an unsuitable type.
            ConfigError: the row condition is in pandas syntax.
        """
        domain = metric.metric_domain_kwargs
        values = {key: value for key, value in (metric.metric_value_kwargs or {}).items() if key != "result_format"}
        where = row_condition(domain.get("row_condition"), self._schema)
        base, _, suffix = metric.metric_name.rpartition(".")
        try:
            if suffix in (*_SUFFIXES, _FILTERED):
                return self._rows_against(base, suffix, domain, values, where)
            if base == "table":
                return self._of_table(suffix, domain, where)
            return self._of_column(metric.metric_name, domain, values, where)
        except LeptonError:
            raise
        except (pl.exceptions.PolarsError, TypeError, ValueError, re.error) as error:
            columns = [
                f"{name} ({self._schema[name]})" if name in self._schema else name for name in self._names(domain)
            ]
            reason = " ".join(str(error).split()).partition(" This error occurred")[0].rstrip(".")  # then Polars' plan
            fix = _OTHER_TYPE if isinstance(error, pl.exceptions.PolarsError) else ""
            raise DataError(f"{metric.metric_name} of {', '.join(columns)}: {reason}.", fix=fix) from error

    @staticmethod
    def _names(domain: Values) -> list[str]:
        pair = [domain[key] for key in ("column", "column_A", "column_B") if domain.get(key)]
        return [*pair, *(domain.get("column_list") or ())]

    def _put(self, group: dict[str, pl.Expr], expr: pl.Expr, *about: Any) -> str:
        """Add an expression once, under a key derived from `about`; fails at once if it cannot be evaluated."""
        key = digest_of([*map(str, about)])[:16]
        if key not in group:
            self._empty.select(expr)
            group[key] = expr
        return key

    def _count_rows(self, domain: Values, where: pl.Expr | None) -> str:
        applies = pl.col(ROW).is_not_null() if where is None else where
        return self._put(self.request.counts, applies, "rows", domain.get("row_condition"))

    def _of_table(self, name: str, domain: Values, where: pl.Expr | None) -> MetricReader | None:
        names = list(self._schema)
        if name == "row_count":
            key = self._count_rows(domain, where)
            return MetricReader(lambda statistics: statistics.counts[key])
        known = {"columns": MetricReader(lambda _: names), "column_count": MetricReader(lambda _: len(names))}
        return known.get(name)

    def _rows_against(
        self, rule: str, suffix: str, domain: Values, values: Values, where: pl.Expr | None
    ) -> MetricReader | None:
        names = self._names(domain)
        cells = [column(name, self._schema) for name in names]
        about = (rule, sorted(domain.items(), key=str), sorted(values.items(), key=str))
        applies = self._applies(rule, domain, cells)
        domain_of = applies if where is None else where & applies
        if suffix == _FILTERED:
            key = self._put(self.request.counts, domain_of, "domain", *about)
            return MetricReader(lambda statistics: statistics.counts[key])
        if rule in _UNIQUE:
            hashes = (cells[0] if len(cells) == 1 else pl.struct(cells)).hash(seed=0)
            key = self._put(self.request.repeated, pl.when(domain_of).then(hashes), *about)
        elif (expected := self._expected(rule, names, cells, values, where)) is not None:
            key = self._put(self.request.counts, domain_of & ~expected.fill_null(False), *about)
        else:
            return None
        if suffix == "unexpected_count":
            return MetricReader(lambda statistics: statistics.counts[key])
        shown = tuple(dict.fromkeys((self._identity, *names)))
        self.request.examples[key] = tuple(name for name in shown if name != ROW)
        if rule in _ORDERED:
            within = cells[0] if where is None else pl.when(where).then(cells[0])
            self.request.orders[key] = Order(within, rule.endswith("increasing"), bool(values.get("strictly")))
        if suffix == "unexpected_values":
            as_rows = "column_list" in domain
            return MetricReader(
                lambda statistics: _values(statistics.examples[key].select(names).head(SHOWN), as_rows=as_rows), key
            )
        if suffix == "unexpected_index_list":
            return MetricReader(lambda statistics: statistics.examples[key].select(shown).head(SHOWN).to_dicts(), key)
        return MetricReader(lambda _: None)  # `unexpected_index_query`, a query for an in-memory table

    def _applies(self, rule: str, domain: Values, cells: Sequence[pl.Expr]) -> pl.Expr:
        if len(cells) == 1 and "column" in domain:
            return pl.col(ROW).is_not_null() if rule in ROWS_WITH_NULLS else cells[0].is_not_null()
        return pl.col(ROW).is_not_null() & IGNORED_ROWS[domain["ignore_row_if"]](cells)

    def _expected(
        self, rule: str, names: Sequence[str], cells: Sequence[pl.Expr], values: Values, where: pl.Expr | None
    ) -> pl.Expr | None:
        if rule in COLUMN_RULES:
            cell = cells[0]
            if rule in _ORDERED and where is not None:  # only rows of the rule's domain count as neighbours
                cell = pl.when(where).then(cell)
            return COLUMN_RULES[rule](cell, values, self._schema[names[0]])
        if rule in PAIR_RULES:
            return PAIR_RULES[rule](cells[0], cells[1], values)
        return MULTICOLUMN_RULES[rule](cells, values) if rule in MULTICOLUMN_RULES else None

    def _of_column(self, name: str, domain: Values, values: Values, where: pl.Expr | None) -> MetricReader | None:
        cell, dtype = column(domain["column"], self._schema), self._schema[domain["column"]]
        cell = cell if where is None else pl.when(where).then(cell)
        about = (domain["column"], domain.get("row_condition"))
        if name in ("column.min", "column.max"):
            key, end = self._put(self.request.ends, cell, *about), int(name == "column.max")
            return MetricReader(lambda statistics: statistics.ends[key][end])
        if name == "column.sum" and dtype.is_numeric():
            key = self._put(self.request.sums, cell, *about)
            return MetricReader(lambda statistics: statistics.sums[key])
        if name in _NUMERIC and dtype.is_numeric():
            key, read = self._put(self.request.numbers, cell, *about), _NUMERIC[name]
            return MetricReader(lambda statistics: read(statistics.numbers[key], values))
        if name == "column.non_null_proportion":
            rows = self._count_rows(domain, where)
            present = self._put(self.request.counts, cell.is_not_null(), "present", *about)
            return MetricReader(lambda a: a.counts[present] / a.counts[rows] if a.counts[rows] else 0.0)
        if name in _DISTINCT:
            key, compute = self._put(self.request.values, cell, *about), _DISTINCT[name]
            wanted = {**values, "value_set": literals(values.get("value_set") or (), dtype).to_list()}
            return MetricReader(lambda statistics: compute(statistics.values[key], wanted))
        return None


def _values(frame: pl.DataFrame, *, as_rows: bool) -> list[Any]:
    if as_rows:
        return frame.to_dicts()
    return frame.rows() if frame.width > 1 else frame.to_series().to_list()


_NUMERIC: dict[str, Callable[[Any, Values], Any]] = {
    "column.mean": lambda sketch, _: sketch.mean if sketch.count else None,
    "column.median": lambda sketch, _: float(sketch.quantile(0.5)),
    "column.standard_deviation": lambda sketch, _: sketch.std,
    "column.quantile_values": lambda sketch, values: sketch.quantile(
        values["quantiles"], values.get("allow_relative_error") or "nearest"
    ).tolist(),
}


def _all(counter: CategoryCounter) -> list[Any]:
    if not counter.exact:
        raise DataError(
            f"more than {counter.bound:,} different values.",
            fix="Use a rule about the rows, e.g. expect_column_values_to_be_in_set.",
        )
    return [value for value, _ in counter.top()]


def _modes(counter: CategoryCounter, _: Values) -> list[Any]:
    values = counter.top()
    return sorted(value for value, count in values if count == values[0][1])


_DISTINCT: dict[str, Callable[[CategoryCounter, Values], Any]] = {
    "column.distinct_values": lambda counter, _: set(_all(counter)),
    "column.distinct_values.count": lambda counter, _: counter.distinct,
    "column.unique_proportion": lambda counter, _: counter.distinct / counter.count if counter.count else 0.0,
    "column.most_common_value": _modes,
    "column.distinct_values.not_in_set": lambda counter, v: sorted(set(_all(counter)) - set(v["value_set"]))[:20],
    "column.distinct_values.not_in_set.count": lambda counter, v: len(set(_all(counter)) - set(v["value_set"])),
    "column.distinct_values.missing_from_column": lambda counter, v: sorted(set(v["value_set"]) - set(_all(counter)))[
        :20
    ],
    "column.distinct_values.missing_from_column.count": lambda counter, v: len(
        set(v["value_set"]) - set(_all(counter))
    ),
}
