"""Run each kind of cleaning step on a table."""

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
from lepton_tasks.data.tables.named_steps import Kind, NamedStep
from lepton_tasks.data.tables.rejected_file import RejectedFile
from lepton_tasks.data.tables.rejections import REJECTIONS, rejections
from lepton_tasks.data.tables.row_step_pass import RowStepPass
from lepton_tasks.data.tables.rows import RAW_ROW, ROW, Part, TableRows

_CHANGE_EXAMPLES = 3


class Cleaning:
    """Runs cleaning steps on a table.

    Attributes:
        rows: All rows of the table, including rejected ones; changed columns are in `Part.changed`.
        kept: Number of rows not rejected.
        rewritten: Whether a step has written the parts of `rows` anew.
        report: One entry per step: rows_in, refused, changed, made.
    """

    def __init__(self, rows: TableRows, draft: Draft, rejected: RejectedFile, ctx: RunContext) -> None:
        self._draft, self._folder, self._rejected, self._ctx = draft, draft.path, rejected, ctx
        self.report: list[dict[str, Any]] = []
        self.rewritten = False
        self._begin(rows)

    def _begin(self, rows: TableRows) -> None:
        """Start with a table without rejected rows."""
        self.rows, self.kept = rows, rows.height
        self._refusals = [pl.DataFrame(schema=REJECTIONS)]
        path = self._folder / REFUSED_FILE
        self._codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows.height,))

    def finish(self) -> None:
        """Write the rejected rows of the current table."""
        self._codes.flush()
        self._rejected.add(self.rows, pl.concat(self._refusals))

    def apply(self, steps: Sequence[NamedStep]) -> None:
        """Run the steps in order; consecutive row steps and a following key step share one pass over the parts."""
        pending = collections.deque(steps)

        def take(kind: Kind) -> list[NamedStep]:
            return [pending.popleft() for _ in itertools.takewhile(lambda step: step.kind == kind, list(pending))]

        while pending:
            if whole := take("whole"):
                self._apply_whole(whole)
            else:
                rows = take("row")
                self._apply_parts(rows, pending.popleft() if pending and pending[0].kind == "key" else None)

    @property
    def _kept_rows(self) -> TableRows:
        return dataclasses.replace(
            self.rows, codes=str(self._folder / REFUSED_FILE), selected_codes=(0,), height=self.kept
        )

    def _apply_parts(self, steps: Sequence[NamedStep], key: NamedStep | None) -> None:
        stem = f"changed-{len(self.report):03d}"
        row_pass = RowStepPass.of(steps, key, self.rows, folder=self._folder, stem=stem)
        if key is not None:
            row_pass.keys_folder.mkdir()
        results = []
        for result in row_pass.prepare(self._kept_rows).map_parts(row_pass, self._ctx):
            results.append(result)
            if result.changed is not None:
                self._draft.settle(Path(result.changed))
        parts = list(zip(self.rows.parts, results, strict=True))
        first = {step.code: [part for part, result in parts if result.counts[step.code]][:1] for step in steps}
        examples = {code: self._change_examples(steps, code, part) for code, found in first.items() for part in found}
        self._refuse(pl.concat([pl.DataFrame(schema=REJECTIONS), *(result.refused for result in results)]), steps)
        for entry in self.report[len(self.report) - len(steps) :]:
            code = entry["code"]
            changed = sum(result.counts[code] for result in results)
            entry |= {"changed": changed, "change_examples": examples.get(code, [])}
        if row_pass.written:
            self._drop_changed()
            changed_parts = tuple(dataclasses.replace(part, changed=result.changed) for part, result in parts)
            self.rows = dataclasses.replace(self.rows, parts=changed_parts)
        if key is not None:
            same = find_duplicates(row_pass.keys_folder, self._ctx)
            shutil.rmtree(row_pass.keys_folder)
            same = same.with_columns(reason=pl.lit("same key as an earlier row"))
            if (label := getattr(key.step, "label", None)) is not None:
                same = with_conflicts(same, self._kept_rows.select([label]), self._ctx)
            self._refuse(rejections(same, pl.lit(key.code), pl.col("reason"), pl.col("same_as")), [key])

    def _drop_changed(self) -> None:
        """Remove column files of earlier steps; the newer files contain the same columns."""
        for part in self.rows.parts:
            if part.changed is not None:
                Path(part.changed).unlink()

    def _change_examples(self, steps: Sequence[NamedStep], code: int, part: Part) -> list[dict[str, Any]]:
        """Examples of changed values in a part: row, column, value before and after."""
        before = self._kept_rows.changed(*(step.step.change for step in steps if step.code < code))
        step = next(step for step in steps if step.code == code)
        names = list(step.step.rewrites(before.schema))
        old = before.select(names).lazy(part).rename({name: f"__old_{name}" for name in names}).collect()
        new = before.changed(step.step.change).select(names).read(part)
        found: list[dict[str, Any]] = []
        for name in names:
            before_values, after_values = old[f"__old_{name}"], new[name]
            # After a type conversion only lost values count as changed.
            lost = before_values.is_null() != after_values.is_null()
            same_type = before_values.dtype == after_values.dtype
            changed = before_values.ne_missing(after_values) if same_type else lost
            before_text, after_text = before_values.cast(pl.String), after_values.cast(pl.String)
            found += [
                {"row": new[ROW][row], "column": name, "before": before_text[row], "after": after_text[row]}
                for row in changed.arg_true().head(_CHANGE_EXAMPLES).to_list()
            ]
        return found[:_CHANGE_EXAMPLES]

    def _apply_whole(self, steps: Sequence[NamedStep]) -> None:
        frame = pl.concat(self._kept_rows.select(list(self.rows.schema)).frames())
        raw_rows = self._raw_rows()
        makers: list[dict[str, Any]] = []
        for step in steps:
            before = frame
            frame, refused = step.step.apply(before)
            _check_accounts(step, before[ROW].drop_nulls(), frame, refused)
            refused = refused.filter(pl.col(ROW).is_not_null())
            self._refuse(rejections(refused, pl.lit(step.code), pl.col("reason")), [step])
            entry = self.report[-1]
            entry["made"] = 0
            makers += [entry] if frame[ROW].null_count() > before[ROW].null_count() else []
            if isinstance(step.step, FillingStep):
                filled = step.step.filled(before, frame)
                entry |= {"changed": len(filled), "change_examples": filled.head(_CHANGE_EXAMPLES).to_dicts()}
        if makers:  # rows removed by a later step do not count as made
            makers[0]["made"] = frame[ROW].null_count()
        self.finish()
        self._drop_changed()
        numbers = frame[ROW] if raw_rows is None else raw_rows.gather(frame[ROW])
        self._begin(self._write(frame.drop(ROW).with_columns(numbers.alias(RAW_ROW))))
        self.rewritten = True

    def _raw_rows(self) -> pl.Series | None:
        """Each row's number in the raw table; None if the numbers are unchanged."""
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


def _check_accounts(step: NamedStep, rows_in: pl.Series, kept: pl.DataFrame, refused: pl.DataFrame) -> None:
    """Check that each input row is kept or rejected, exactly once."""
    out = pl.concat([kept[ROW].drop_nulls(), refused[ROW].drop_nulls()])
    if not out.sort().equals(rows_in.sort(), check_names=False):
        lost, twice = len(rows_in) - out.n_unique(), len(out) - out.n_unique()
        raise DataError(
            f"the step {step.spec.name!r} lost {lost:,} rows and returned {twice:,} twice: this is a bug in the step.",
            where="clean",
            fix="Remove the step, and report the bug.",
        )
