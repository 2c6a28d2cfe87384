"""One pass over table parts: rejections and changes of row steps, and keys of the remaining rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.data.tables.arrays import written_aside
from lepton_tasks.data.tables.duplicates import KEY_COLUMNS, key_expressions, write_keys
from lepton_tasks.data.tables.order import NamedStep
from lepton_tasks.data.tables.refusals import CODE, REASON, refusals_in, refused_by, unrefused
from lepton_tasks.data.tables.rows import ROW, Part, TableRows, visible

Schema = Mapping[str, pl.DataType]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a pass found in one part.

    Attributes:
        refused: `REFUSALS` of the row steps.
        counts: By code, how many rows each row step changed.
        changed: The file with the columns that were written anew; None if there are none.
    """

    refused: pl.DataFrame
    counts: dict[int, int]
    changed: str | None


@dataclasses.dataclass(frozen=True)
class Judging:
    """Consecutive row steps, and the key step after them. Picklable.

    Attributes:
        steps: The row steps.
        key: The step whose keys are written; None for no keys.
        schema: The columns before the steps.
        anew: The columns that are written: those that these steps or earlier ones change or add.
        folder: Where to.
        stem: Begins the names of the files.
    """

    steps: tuple[NamedStep, ...]
    key: NamedStep | None
    schema: Schema
    anew: tuple[str, ...]
    folder: Path
    stem: str

    @classmethod
    def of(
        cls, steps: Sequence[NamedStep], key: NamedStep | None, rows: TableRows, *, folder: Path, stem: str
    ) -> Judging:
        """The pass over rows whose earlier changes lie in `Part.changed`."""
        before = rows.schema
        rewritten, after = _changed_schema(steps, before)
        anew = rewritten | (set(after) - set(before))
        if anew and rows.parts[0].changed is not None:
            anew |= set(pl.read_ipc_schema(rows.parts[0].changed))
        return cls(tuple(steps), key, before, tuple(name for name in after if name in anew), folder, stem)

    @property
    def keys_folder(self) -> Path:
        """Where the keys are written."""
        return self.folder / ".keys"

    def over(self, rows: TableRows) -> TableRows:
        """The rows with all that the pass looks at."""
        judged = rows.changed(functools.partial(_judge, self.steps, self.schema))
        keys: tuple[str, ...] = ()
        if self.key is not None:
            keys = KEY_COLUMNS
            _, after = _changed_schema(self.steps, self.schema)
            judged = judged.changed(functools.partial(_with_keys, self.key.step.keys(after)))
        return judged.select([CODE, REASON, *(f"__changed_{step.code}" for step in self.steps), *self.anew, *keys])

    def __call__(self, part: Part, frame: pl.DataFrame) -> Verdict:
        """Judge the rows of a part that `over` gave, and write its columns and keys."""
        counts = {step.code: int(frame[f"__changed_{step.code}"].sum()) for step in self.steps}
        refused = refusals_in(frame)
        if self.key is not None:
            write_keys(self.keys_folder, frame)
        return Verdict(refused, counts, self._write(part, frame))

    def _write(self, part: Part, frame: pl.DataFrame) -> str | None:
        if not self.anew:
            return None
        columns = frame.select(self.anew)
        if len(frame) < part.rows:  # rows that were refused before: null, since nobody looks at them again
            places = np.full(part.rows, -1, np.int64)
            places[frame[ROW].to_numpy() - part.first] = np.arange(len(frame))
            index = pl.Series(places).set(pl.Series(places < 0), None)
            columns = columns.select(pl.all().gather(index))
        path = self.folder / f"{self.stem}-{part.first:012d}.arrow"
        with written_aside(path) as aside:
            columns.write_ipc(aside, compression="uncompressed")
        return str(path)


def _changed_schema(steps: Sequence[NamedStep], schema: Schema) -> tuple[set[str], Schema]:
    """The columns that steps rewrite, and the columns after them."""
    rewritten: set[str] = set()
    frame = pl.LazyFrame(schema=schema)
    for step in steps:
        rewritten |= set(step.step.rewrites(visible(frame.collect_schema())))
        frame = step.step.change(frame)
    return rewritten, visible(frame.collect_schema())


def _judge(steps: Sequence[NamedStep], schema: Schema, frame: pl.LazyFrame) -> pl.LazyFrame:
    """The rows with the first step that refuses each (0 for none), its reason, and which steps changed them."""
    frame = unrefused(frame)
    for step in steps:
        before = step.step.rewrites(schema)
        frame = frame.with_columns(pl.col(name).alias(f"__before_{name}") for name in before)
        frame = step.step.change(frame)
        after = frame.collect_schema()
        differs = [_differs(name, schema[name], after[name]) for name in before]
        frame = frame.with_columns(pl.any_horizontal(pl.lit(False), *differs).alias(f"__changed_{step.code}"))
        schema = visible(after)
        if (reason := step.step.refuse()) is not None:
            frame = refused_by(frame, step.code, reason)
    return frame


def _differs(name: str, old: pl.DataType, new: pl.DataType) -> pl.Expr:
    """Whether the value is another one; in another type it is the same, unless it was lost."""
    before, after = pl.col(f"__before_{name}"), pl.col(name)
    return before.ne_missing(after) if old == new else before.is_null() != after.is_null()


def _with_keys(keys: Sequence[pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(key_expressions(keys))
