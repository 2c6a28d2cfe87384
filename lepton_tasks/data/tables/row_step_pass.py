"""One pass over table parts: rejections and changes of row steps, and keys of the kept rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.data.tables.arrays import write_atomically
from lepton_tasks.data.tables.duplicates import KEY_COLUMNS, key_expressions, write_keys
from lepton_tasks.data.tables.named_steps import NamedStep
from lepton_tasks.data.tables.rejections import CODE, REASON, reject_rows, rejected_rows, without_rejections
from lepton_tasks.data.tables.rows import ROW, Part, TableRows, visible

Schema = Mapping[str, pl.DataType]


@dataclasses.dataclass(frozen=True)
class PartResult:
    """Result of a pass for one part.

    Attributes:
        refused: `REJECTIONS` of the row steps.
        counts: Number of changed rows by step code.
        changed: The file with the changed columns; None if there are none.
    """

    refused: pl.DataFrame
    counts: dict[int, int]
    changed: str | None


@dataclasses.dataclass(frozen=True)
class RowStepPass:
    """Consecutive row steps and the key step after them, as a function of a part. Picklable.

    Attributes:
        steps: The row steps.
        key: The step whose keys are written; None for no keys.
        schema: The columns before the steps.
        written: The columns to write: those that these or earlier steps change or add.
        folder: Output folder.
        stem: Prefix of the file names.
    """

    steps: tuple[NamedStep, ...]
    key: NamedStep | None
    schema: Schema
    written: tuple[str, ...]
    folder: Path
    stem: str

    @classmethod
    def of(
        cls, steps: Sequence[NamedStep], key: NamedStep | None, rows: TableRows, *, folder: Path, stem: str
    ) -> RowStepPass:
        """The pass over rows whose earlier changes are in `Part.changed`."""
        before = rows.schema
        rewritten, after = _changed_schema(steps, before)
        written = rewritten | (set(after) - set(before))
        if written and rows.parts[0].changed is not None:
            written |= set(pl.read_ipc_schema(rows.parts[0].changed))
        return cls(tuple(steps), key, before, tuple(name for name in after if name in written), folder, stem)

    @property
    def keys_folder(self) -> Path:
        """Folder of the key files."""
        return self.folder / ".keys"

    def prepare(self, rows: TableRows) -> TableRows:
        """The rows with all columns that the pass needs."""
        prepared = rows.changed(functools.partial(_run_steps, self.steps, self.schema))
        keys: tuple[str, ...] = ()
        if self.key is not None:
            keys = KEY_COLUMNS
            _, after = _changed_schema(self.steps, self.schema)
            prepared = prepared.changed(functools.partial(_with_keys, self.key.step.keys(after)))
        flags = (f"__changed_{step.code}" for step in self.steps)
        return prepared.select([CODE, REASON, *flags, *self.written, *keys])

    def __call__(self, part: Part, frame: pl.DataFrame) -> PartResult:
        """Write the columns and keys of a prepared part; returns its rejections and counts."""
        counts = {step.code: int(frame[f"__changed_{step.code}"].sum()) for step in self.steps}
        refused = rejected_rows(frame)
        if self.key is not None:
            write_keys(self.keys_folder, frame)
        return PartResult(refused, counts, self._write(part, frame))

    def _write(self, part: Part, frame: pl.DataFrame) -> str | None:
        if not self.written:
            return None
        columns = frame.select(self.written)
        if len(frame) < part.rows:  # null for rows rejected by earlier passes, which are not read again
            places = np.full(part.rows, -1, np.int64)
            places[frame[ROW].to_numpy() - part.first] = np.arange(len(frame))
            index = pl.Series(places).set(pl.Series(places < 0), None)
            columns = columns.select(pl.all().gather(index))
        path = self.folder / f"{self.stem}-{part.first:012d}.arrow"
        with write_atomically(path) as aside:
            columns.write_ipc(aside, compression="uncompressed")
        return str(path)


def _changed_schema(steps: Sequence[NamedStep], schema: Schema) -> tuple[set[str], Schema]:
    """The columns that the steps rewrite, and the schema after them."""
    rewritten: set[str] = set()
    frame = pl.LazyFrame(schema=schema)
    for step in steps:
        rewritten |= set(step.step.rewrites(visible(frame.collect_schema())))
        frame = step.step.change(frame)
    return rewritten, visible(frame.collect_schema())


def _run_steps(steps: Sequence[NamedStep], schema: Schema, frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows after the steps, with `CODE`, `REASON` and a flag per step for changed rows."""
    frame = without_rejections(frame)
    for step in steps:
        before = step.step.rewrites(schema)
        frame = frame.with_columns(pl.col(name).alias(f"__before_{name}") for name in before)
        frame = step.step.change(frame)
        after = frame.collect_schema()
        differs = [_differs(name, schema[name], after[name]) for name in before]
        frame = frame.with_columns(pl.any_horizontal(pl.lit(False), *differs).alias(f"__changed_{step.code}"))
        schema = visible(after)
        if (reason := step.step.refuse()) is not None:
            frame = reject_rows(frame, step.code, reason)
    return frame


def _differs(name: str, old: pl.DataType, new: pl.DataType) -> pl.Expr:
    """Whether the value changed; after a type conversion, whether it was lost."""
    before, after = pl.col(f"__before_{name}"), pl.col(name)
    return before.ne_missing(after) if old == new else before.is_null() != after.is_null()


def _with_keys(keys: Sequence[pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(key_expressions(keys))
