"""DictionaryColumn-encoded text columns: distinct values and one index per row."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.data.tables.rows import Part, TableRows


@dataclasses.dataclass(frozen=True)
class DictionaryColumn:
    """A dictionary-encoded column of a part.

    Attributes:
        values: The distinct values, str; may include values that no row has.
        index: int32 [rows]: 0 for null, else 1 + the index into `values`.
    """

    values: pl.Series
    index: np.ndarray

    def map(self, expression: pl.Expr) -> pl.Series:
        """Evaluate an elementwise expression of this column, once per distinct value."""
        column = pl.concat([pl.Series(self.values.name, [None], pl.String), self.values])
        found = column.to_frame().select(expression).to_series()
        return pl.Series(found.name, np.take(found.to_numpy(), self.index))

    def counts(self, rows: np.ndarray | None) -> np.ndarray:
        """Number of nulls, then of each value, among the rows with these indices in the part (None for all)."""
        index = self.index if rows is None else np.take(self.index, rows)
        return np.bincount(index, minlength=len(self.values) + 1)


def unchanged_text_columns(rows: TableRows, names: Collection[str]) -> list[str]:
    """The text columns among `names` that no step has changed, so that the Parquet files hold their values."""
    if not rows.parts:
        return []
    part = rows.parts[0]
    changed = pl.read_ipc_schema(part.changed) if part.changed is not None else {}
    raw = pl.read_parquet_schema(part.path)
    return [name for name in names if raw.get(name) == pl.String and name not in changed]


def read_dictionaries(part: Part, names: Sequence[str]) -> dict[str, DictionaryColumn]:
    """Read columns of a part as dictionaries."""
    if not names:
        return {}
    with pq.ParquetFile(part.path, read_dictionary=list(names)) as file:
        groups: list[int] = []
        first, start = 0, part.offset
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first < part.offset + part.rows and first + rows > part.offset:
                start = first if not groups else start
                groups.append(group)
            first += rows
        table = file.read_row_groups(groups, columns=list(names), use_threads=False)
    table = table.slice(part.offset - start, part.rows).unify_dictionaries()
    found = {}
    for name in names:
        chunks = [c if isinstance(c, pa.DictionaryArray) else c.dictionary_encode() for c in table[name].chunks]
        index = pl.concat([pl.Series(chunk.indices) for chunk in chunks])
        found[name] = DictionaryColumn(pl.Series(name, chunks[0].dictionary), (index + 1).fill_null(0).to_numpy())
    return found
