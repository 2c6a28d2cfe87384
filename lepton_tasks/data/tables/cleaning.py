"""State of a table during cleaning, and how each kind of step runs."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import Draft
from lepton_tasks.core.table_protocols import FillingStep
from lepton_tasks.data.tables.artifact import REFUSED_FILE
from lepton_tasks.data.tables.conflicts import with_conflicts
from lepton_tasks.data.tables.duplicates import find_duplicates
from lepton_tasks.data.tables.ingest import PART_ROWS
from lepton_tasks.data.tables.judging import Judging
from lepton_tasks.data.tables.order import Kind, NamedStep
from lepton_tasks.data.tables.refusals import REFUSALS, refusals
from lepton_tasks.data.tables.rejected import RejectedFile
from lepton_tasks.data.tables.rows import RAW_ROW, ROW, Part, TableRows

_CHANGE_EXAMPLES = 3


class Cleaning:
    """Runs steps over a table.

    Attributes:
        rows: All rows of the table, refused ones among them; what steps changed is in `Part.changed`.
        kept: How many are not refused.
        rewritten: Whether the parts of `rows` were written by a step.
        report: An entry a step: rows_in, refused, changed, made.
    """

    def __init__(self, rows: TableRows, draft: Draft, rejected: RejectedFile, ctx: RunContext) -> None:
        self._draft, self._folder, self._rejected, self._ctx = draft, draft.path, rejected, ctx
        self.report: list[dict[str, Any]] = []
        self.rewritten = False
        self._begin(rows)

    def _begin(self, rows: TableRows) -> None:
        """Take up a table none of whose rows is refused."""
        self.rows, self.kept = rows, rows.height
        self._refusals = [pl.DataFrame(schema=REFUSALS)]
        path = self._folder / REFUSED_FILE
        self._codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows.height,))

    def finish(self) -> None:
        """Write what was refused of this table."""
        self._codes.flush()
        self._rejected.add(self.rows, pl.concat(self._refusals))

    def apply(self, steps: Sequence[NamedStep]) -> None:
        """Run the steps in their order; row steps and the key step after them look at each part once, together."""
        left = collections.deque(steps)

        def taken(kind: Kind) -> list[NamedStep]:
            return [left.popleft() for _ in itertools.takewhile(lambda step: step.kind == kind, list(left))]

        while left:
            if whole := taken("whole"):
                self._apply_whole(whole)
            else:
                rows = taken("row")
                self._apply_parts(rows, left.popleft() if left and left[0].kind == "key" else None)

    @property
    def _so_far(self) -> TableRows:
        return dataclasses.replace(self.rows, codes=str(self._folder / REFUSED_FILE), seen=(0,), height=self.kept)

    def _apply_parts(self, steps: Sequence[NamedStep], key: NamedStep | None) -> None:
        stem = f"changed-{len(self.report):03d}"
        judging = Judging.of(steps, key, self.rows, folder=self._folder, stem=stem)
        if key is not None:
            judging.keys_folder.mkdir()
        verdicts = []
        for verdict in judging.over(self._so_far).map_parts(judging, self._ctx):
            verdicts.append(verdict)
            if verdict.changed is not None:
                self._draft.settle(Path(verdict.changed))
        parts = list(zip(self.rows.parts, verdicts, strict=True))
        first = {step.code: [part for part, verdict in parts if verdict.counts[step.code]][:1] for step in steps}
        examples = {code: self._change_examples(steps, code, part) for code, found in first.items() for part in found}
        self._refuse(pl.concat([pl.DataFrame(schema=REFUSALS), *(verdict.refused for verdict in verdicts)]), steps)
        for entry in self.report[len(self.report) - len(steps) :]:
            code = entry["code"]
            changed = sum(verdict.counts[code] for verdict in verdicts)
            entry |= {"changed": changed, "change_examples": examples.get(code, [])}
        if judging.anew:
            self._drop_changed()
            anew = tuple(dataclasses.replace(part, changed=verdict.changed) for part, verdict in parts)
            self.rows = dataclasses.replace(self.rows, parts=anew)
        if key is not None:
            same = find_duplicates(judging.keys_folder, self._ctx)
            shutil.rmtree(judging.keys_folder)
            same = same.with_columns(reason=pl.lit("same key as an earlier row"))
            if (label := getattr(key.step, "label", None)) is not None:
                same = with_conflicts(same, self._so_far.select([label]), self._ctx)
            self._refuse(refusals(same, pl.lit(key.code), pl.col("reason"), pl.col("same_as")), [key])

    def _drop_changed(self) -> None:
        """Remove the columns that earlier steps wrote: they are among those written after them."""
        for part in self.rows.parts:
            if part.changed is not None:
                Path(part.changed).unlink()

    def _change_examples(self, steps: Sequence[NamedStep], code: int, part: Part) -> list[dict[str, Any]]:
        """Columns with their values before and after, of a few rows of the part that the step changes."""
        before = self._so_far.changed(*(step.step.change for step in steps if step.code < code))
        step = next(step for step in steps if step.code == code)
        names = list(step.step.rewrites(before.schema))
        old = before.select(names).lazy(part).rename({name: f"__old_{name}" for name in names}).collect()
        new = before.changed(step.step.change).select(names).read(part)
        found: list[dict[str, Any]] = []
        for name in names:
            was, now = old[f"__old_{name}"], new[name]
            lost = was.is_null() != now.is_null()  # in another type, a value that is still there is the same
            rows = (was.ne_missing(now) if was.dtype == now.dtype else lost).arg_true().head(_CHANGE_EXAMPLES)
            was, now = was.cast(pl.String), now.cast(pl.String)
            found += [
                {"row": new[ROW][row], "column": name, "before": was[row], "after": now[row]} for row in rows.to_list()
            ]
        return found[:_CHANGE_EXAMPLES]

    def _apply_whole(self, steps: Sequence[NamedStep]) -> None:
        frame = pl.concat(self._so_far.select(list(self.rows.schema)).frames())
        raw_rows = self._raw_rows()
        makers: list[dict[str, Any]] = []
        for step in steps:
            before = frame
            frame, refused = step.step.apply(before)
            _check_accounts(step, before[ROW].drop_nulls(), frame, refused)
            refused = refused.filter(pl.col(ROW).is_not_null())
            self._refuse(refusals(refused, pl.lit(step.code), pl.col("reason")), [step])
            entry = self.report[-1]
            entry["made"] = 0
            makers += [entry] if frame[ROW].null_count() > before[ROW].null_count() else []
            if isinstance(step.step, FillingStep):
                filled = step.step.filled(before, frame)
                entry |= {"changed": len(filled), "change_examples": filled.head(_CHANGE_EXAMPLES).to_dicts()}
        if makers:  # what a later step took out again was never in the table
            makers[0]["made"] = frame[ROW].null_count()
        self.finish()
        self._drop_changed()
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


def _check_accounts(step: NamedStep, came: pl.Series, kept: pl.DataFrame, refused: pl.DataFrame) -> None:
    """Each row that came is kept or refused, and only once."""
    went = pl.concat([kept[ROW].drop_nulls(), refused[ROW].drop_nulls()])
    if not went.sort().equals(came.sort(), check_names=False):
        lost, twice = len(came) - went.n_unique(), len(went) - went.n_unique()
        raise DataError(
            f"the step {step.spec.name!r} lost {lost:,} rows and gave {twice:,} twice: this is a bug in the step.",
            where="clean",
            fix="Leave the step out, and report it.",
        )
