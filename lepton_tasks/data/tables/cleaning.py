"""The state of a table while its cleaning steps run, and how each kind of step is run."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.tables.artifact import REFUSED_FILE
from lepton_tasks.data.tables.duplicates import KEY_COLUMNS, find_duplicates, key_expressions, write_keys
from lepton_tasks.data.tables.ingest import PART_ROWS
from lepton_tasks.data.tables.order import Kind, NamedStep
from lepton_tasks.data.tables.refusals import (
    CODE,
    REASON,
    REFUSALS,
    refusals,
    refusals_in,
    refused_by,
    unrefused,
)
from lepton_tasks.data.tables.rejected import RejectedFile
from lepton_tasks.data.tables.rows import RAW_ROW, ROW, Part, TableRows, visible

_CHANGE_EXAMPLES = 3


class Cleaning:
    """Runs steps over a table.

    Attributes:
        rows: All rows of the table, refused ones among them, with the changes so far.
        kept: How many are not refused.
        pending: The row steps whose changes are made when the rows are read.
        rewritten: Whether the parts of `rows` were written by a step.
        report: An entry a step: rows_in, refused, changed, made.
    """

    def __init__(self, rows: TableRows, folder: Path, rejected: RejectedFile, ctx: RunContext) -> None:
        self._folder, self._rejected, self._ctx = folder, rejected, ctx
        self.report: list[dict[str, Any]] = []
        self.rewritten = False
        self._begin(rows)

    def _begin(self, rows: TableRows) -> None:
        """Take up a table none of whose rows is refused."""
        self.rows, self.kept = rows, rows.height
        self.pending: list[NamedStep] = []
        self._refusals = [pl.DataFrame(schema=REFUSALS)]
        path = self._folder / REFUSED_FILE
        self._codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows.height,))

    def finish(self) -> None:
        """Write what was refused of this table."""
        self._codes.flush()
        self._rejected.add(self.rows, pl.concat(self._refusals))

    def apply(self, kind: Kind, steps: Sequence[NamedStep]) -> None:
        """Run consecutive steps of one kind over the rows that are kept so far."""
        if kind == "row":
            self._apply_rows(steps)
        elif kind == "whole":
            self._apply_whole(steps)
        else:
            for step in steps:
                self._apply_keys(step)

    @property
    def _so_far(self) -> TableRows:
        return dataclasses.replace(self.rows, codes=str(self._folder / REFUSED_FILE), seen=(0,), height=self.kept)

    def _apply_rows(self, steps: Sequence[NamedStep]) -> None:
        judged = self._so_far.changed(functools.partial(_judge, steps, self.rows.schema))
        judged = judged.select([CODE, REASON, *(f"__changed_{step.code}" for step in steps)])
        changed = dict.fromkeys((step.code for step in steps), 0)
        first: dict[int, Part] = {}
        found = []
        for part, (refused, counts) in zip(judged.parts, judged.map(_verdict, self._ctx), strict=True):
            found.append(refused)
            for code, count in counts.items():
                changed[code] += count
                if count:
                    first.setdefault(code, part)
        examples = {code: self._change_examples(steps, code, part) for code, part in first.items()}
        self._refuse(pl.concat([pl.DataFrame(schema=REFUSALS), *found]), steps)
        for entry in self.report[-len(steps) :]:
            entry |= {"changed": changed[entry["code"]], "change_examples": examples.get(entry["code"], [])}
        self.rows = self.rows.changed(*(step.step.change for step in steps))
        self.pending += steps

    def _change_examples(self, steps: Sequence[NamedStep], code: int, part: Part) -> list[dict[str, Any]]:
        """Columns with their values before and after, of a few rows of the part that the step changes."""
        before = self._so_far.changed(*(step.step.change for step in steps if step.code < code))
        step = next(step for step in steps if step.code == code)
        names = list(step.step.rewrites(before.schema))
        old = before.select(names).lazy(part).rename({name: f"__old_{name}" for name in names}).collect()
        new = before.changed(step.step.change).select(names).read(part)
        found: list[dict[str, Any]] = []
        for name in names:
            was, now = old[f"__old_{name}"].cast(pl.String), new[name].cast(pl.String)
            rows = was.ne_missing(now).arg_true().head(_CHANGE_EXAMPLES)
            found += [
                {"row": new[ROW][row], "column": name, "before": was[row], "after": now[row]} for row in rows.to_list()
            ]
        return found[:_CHANGE_EXAMPLES]

    def _apply_keys(self, step: NamedStep) -> None:
        folder = self._folder / ".keys"
        folder.mkdir()
        keyed = self._so_far.changed(functools.partial(_with_keys, step.step.keys(self.rows.schema)))
        for _ in keyed.select(KEY_COLUMNS).map(functools.partial(write_keys, folder), self._ctx):
            pass
        same = find_duplicates(folder, self._ctx)
        shutil.rmtree(folder)
        self._refuse(refusals(same, pl.lit(step.code), pl.lit("same key as an earlier row"), pl.col("same_as")), [step])

    def _apply_whole(self, steps: Sequence[NamedStep]) -> None:
        frame = pl.concat(self._so_far.select(list(self.rows.schema)).frames())
        raw_rows = self._raw_rows()
        for step in steps:
            came = frame[ROW].drop_nulls()
            frame, refused = step.step.apply(frame)
            _check_accounts(step, came, frame, refused)
            refused = refused.filter(pl.col(ROW).is_not_null())
            self._refuse(refusals(refused, pl.lit(step.code), pl.col("reason")), [step])
            self.report[-1]["made"] = 0
        made = frame[ROW].null_count()
        self.report[-1]["made"] = made  # of the group: what a later step took out again was never in the table
        self.finish()
        numbers = frame[ROW] if raw_rows is None else raw_rows.gather(frame[ROW])
        self._begin(self._write(frame.drop(ROW).with_columns(numbers.alias(RAW_ROW))))
        self.rewritten = True

    def _raw_rows(self) -> pl.Series | None:
        """The number that each row had in the table as it came; None if it still has it."""
        if not self.rewritten:
            return None
        return pl.concat(pl.read_parquet(part.path, columns=[RAW_ROW]) for part in self.rows.parts)[RAW_ROW]

    def _write(self, frame: pl.DataFrame) -> TableRows:
        parts = []
        stem = f"rows-{len(self.report):03d}"
        for start in range(0, max(len(frame), 1), PART_ROWS):
            path = self._folder / f"{stem}-{start // PART_ROWS:05d}.parquet"
            rows = frame.slice(start, PART_ROWS)
            rows.write_parquet(path)
            parts.append(Part(str(path), 0, len(rows), start, "cleaned"))
        for part in self.rows.parts if self.rewritten else ():
            Path(part.path).unlink()
        return TableRows(tuple(parts), height=len(frame))

    def _refuse(self, refused: pl.DataFrame, steps: Sequence[NamedStep]) -> None:
        self._codes[refused[ROW].to_numpy()] = refused["code"].to_numpy()
        self._codes.flush()
        self._refusals.append(refused)
        counts = dict(refused["code"].value_counts().iter_rows())
        for step in steps:
            count = counts.get(step.code, 0)
            entry = {"step": step.spec.name, "code": step.code, "rows_in": self.kept, "refused": count, "changed": 0}
            self.report.append(entry)
            self.kept -= count


def _judge(steps: Sequence[NamedStep], schema: Mapping[str, pl.DataType], frame: pl.LazyFrame) -> pl.LazyFrame:
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


def _verdict(frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, int]]:
    """The refused rows of a part, and how many rows each step changed."""
    flags = [name for name in frame.columns if name.startswith("__changed_")]
    counts = frame.select(pl.col(flags).sum()).row(0)
    return refusals_in(frame), {
        int(name.removeprefix("__changed_")): count for name, count in zip(flags, counts, strict=True)
    }


def _with_keys(keys: Sequence[pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.with_columns(key_expressions(keys))


def _check_accounts(step: NamedStep, came: pl.Series, kept: pl.DataFrame, refused: pl.DataFrame) -> None:
    """Each row that came is kept or refused, and only once."""
    went = pl.concat([kept[ROW].drop_nulls(), refused[ROW].drop_nulls()])
    if not went.sort().equals(came.sort(), check_names=False):
        lost, twice = len(came) - went.n_unique(), len(went) - went.n_unique()
        raise DataError(
            f"the step {step.spec.name!r} lost {lost:,} rows and gave {twice:,} twice: this is a fault of the step.",
            where="clean",
            fix="Leave the step out, and report it.",
        )
