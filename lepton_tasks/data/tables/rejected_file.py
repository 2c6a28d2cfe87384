"""``rejected.parquet``: every rejected row with step, reason and origin."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.tables.rows import RAW_ROW, ROW, Part, TableRows, scan

_EXAMPLES = 5

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("step", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("row", pa.int64()),  # number in the raw table; null for lines that were not read as rows
        pa.field("line", pa.int64()),  # line number of an unreadable row
        pa.field("text", pa.string()),  # the row's values as JSON, or the text of the line
    ]
)


class RejectedFile:
    """Writes ``rejected.parquet``.

    Args:
        path: The file.
        names: Step name by code.
        parts: Parts of the raw table, for the origin of a row.
        ctx: Run context.

    Attributes:
        examples: A few rows by code.
    """

    def __init__(self, path: Path, names: Mapping[int, str], parts: Sequence[Part], ctx: RunContext) -> None:
        self.examples: dict[int, list[dict[str, Any]]] = {code: [] for code in names}
        self._writer = pq.ParquetWriter(
            path,
            REJECTED_SCHEMA,
            use_dictionary=["step", "origin"],
            compression="none",
            write_statistics=False,  # comparing the texts takes twice as long as writing them
        )
        self._names, self._ctx = dict(names), ctx
        self._origins = Origins([part.first for part in parts], [part.origin for part in parts])

    def __enter__(self) -> RejectedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, rows: TableRows, rejections: pl.DataFrame) -> None:
        """Write rejected rows with their values on disk, before changes.

        Args:
            rows: The table to which the row numbers refer.
            rejections: `REJECTIONS`.
        """
        rejections = rejections.sort(ROW)
        chunks = [_Refused(part, mine) for part in rows.parts if len(mine := _within(rejections, part))]
        task = functools.partial(_rejected, self._names, self._origins)
        for table, examples in map_chunks(task, chunks, self._ctx, total=len(rejections), unit="refused rows"):
            self._writer.write_table(table)
            for code, few in examples.items():
                self.examples[code] += few[: _EXAMPLES - len(self.examples[code])]


@dataclasses.dataclass(frozen=True)
class Origins:
    """Origin of each row of a table, by the first row number of each part."""

    starts: Sequence[int]
    origins: Sequence[str]

    def of(self, rows: pl.Series) -> pl.Series:
        """The origin of each row; ``made while cleaning`` for rows created by a step."""
        index = np.searchsorted(np.array(self.starts), rows.fill_null(0).to_numpy(), side="right") - 1
        found = pl.Series(self.origins, dtype=pl.String).gather(index)
        return pl.select(pl.when(rows.is_null()).then(pl.lit("made while cleaning")).otherwise(found)).to_series()


@dataclasses.dataclass(frozen=True)
class _Refused:
    part: Part
    rejections: pl.DataFrame

    def __len__(self) -> int:
        return len(self.rejections)


def _within(rejections: pl.DataFrame, part: Part) -> pl.DataFrame:
    start, stop = (int(rejections[ROW].search_sorted(row)) for row in (part.first, part.first + part.rows))
    return rejections.slice(start, stop - start)


def _rejected(
    names: Mapping[int, str], origins: Origins, chunk: _Refused
) -> tuple[pa.Table, dict[int, list[dict[str, Any]]]]:
    """The rejected rows of a part, and examples by code."""
    wanted = pl.Series(chunk.rejections[ROW] - chunk.part.first)
    values = scan(chunk.part).drop(ROW).collect().select(pl.all().gather(wanted))
    rows = values[RAW_ROW] if RAW_ROW in values.columns else chunk.rejections[ROW]
    texts = values.drop(RAW_ROW, strict=False).select(pl.struct(pl.all()).struct.json_encode()).to_series()
    reason = pl.col("reason").cast(pl.String)
    frame = chunk.rejections.select(
        pl.col("code").replace_strict(names, return_dtype=pl.String).alias("step"),
        pl.when(pl.col("same_as").is_null()).then(reason).otherwise(pl.format("{}: {}", reason, "same_as")),
        origins.of(rows).alias("origin"),
        rows.alias("row"),
        pl.lit(None, pl.Int64).alias("line"),
        texts.alias("text"),
        "code",
    )
    shown = frame.select("code", "reason", "row", "origin", "text")
    examples = {code: shown.filter(pl.col("code") == code).head(_EXAMPLES).drop("code").to_dicts() for code in names}
    return frame.drop("code").to_arrow(compat_level=pl.CompatLevel.oldest()).cast(REJECTED_SCHEMA), examples
