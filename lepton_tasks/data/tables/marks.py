"""Split rows with the fitted cleaning steps applied, marked for the transform stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lepton_tasks.core.catalogue import TABLE_STEPS
from lepton_tasks.core.table_protocols import FittedStep
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.cuts import NOWHERE
from lepton_tasks.data.tables.labels import place_among
from lepton_tasks.data.tables.operations import Operation, apply_operations
from lepton_tasks.data.tables.refusals import CODE, REASON, refused_by, unrefused
from lepton_tasks.data.tables.rows import ROW, Change, TableRows

SPLIT, TARGET = "__split", "__target"
"""The row's split, uint8; and its target, null if nothing of the table is learned."""
MARKS = (SPLIT, TARGET, CODE, REASON)

UNKNOWN_LABEL = 255
"""The code of rows of a class unknown in training; steps count from 1."""


def change_by(step: FittedStep, fitted: Mapping[str, Any]) -> Change:
    """The change that a step makes to training rows; those that it refuses are left out."""
    return functools.partial(_training_rows, step, fitted)


def _training_rows(step: FittedStep, fitted: Mapping[str, Any], frame: pl.LazyFrame) -> pl.LazyFrame:
    reason = step.refuse(fitted)
    return apply_operations(frame if reason is None else frame.filter(reason.is_null()), step.operations(fitted))


@dataclasses.dataclass(frozen=True)
class Marking:
    """The fitted steps and the classes of a ``preprocessor.json``. Picklable.

    Attributes:
        steps: Code, step and fitted values of each fitted step.
        names: What each code is called.
        label: The column that is to be learned.
        classes: Its classes; empty if numbers are learned.
        codes: ``splits.npy``.
        spared: Columns to which nothing is done, since somebody does it later.
    """

    steps: tuple[tuple[int, FittedStep, Mapping[str, Any]], ...]
    names: dict[int, str]
    label: str | None
    classes: tuple[str, ...]
    codes: str
    spared: frozenset[str] = frozenset()

    @classmethod
    def of(cls, preprocessor: Mapping[str, Any], *, label: str | None, codes: str) -> Marking:
        """What ``preprocessor.json`` holds, with the steps built again."""
        entries = preprocessor["steps"]
        steps = tuple((e["code"], TABLE_STEPS.build(e["name"], e["params"]), e["fitted"]) for e in entries)
        names = {e["code"]: e["name"] for e in entries} | {UNKNOWN_LABEL: "unknown label"}
        return cls(steps, names, label, tuple(preprocessor["labels"]), codes)  # type: ignore[arg-type]  # only fitted steps

    @property
    def operations(self) -> list[Operation]:
        """What the fitted steps do to the rows."""
        return [operation for _, step, fitted in self.steps for operation in step.operations(fitted)]

    @property
    def looked_at(self) -> set[str]:
        """The columns by which fitted steps refuse rows."""
        reasons = (step.refuse(fitted) for _, step, fitted in self.steps)
        return {name for reason in reasons if reason is not None for name in reason.meta.root_names()}

    def mark(self, rows: TableRows) -> TableRows:
        """The rows after the fitted steps, with `MARKS`; refused rows are marked, not left out."""
        return rows.changed(functools.partial(self._mark, self.codes))

    def kept(self, rows: TableRows) -> TableRows:
        """The rows after the fitted steps without those that are refused."""
        return self.mark(rows).changed(_only_kept)

    def _mark(self, codes: str, frame: pl.LazyFrame) -> pl.LazyFrame:
        split = pl.col(ROW).map_batches(functools.partial(_splits, codes), return_dtype=pl.UInt8, is_elementwise=True)
        target = self._target() if self.label else pl.lit(None)
        frame = unrefused(frame.with_columns(split.alias(SPLIT), target.alias(TARGET)))
        if self.classes:
            placed = pl.col(SPLIT) != NOWHERE
            unknown = pl.when(placed & pl.col(TARGET).is_null()).then(pl.lit("a class unknown in training"))
            frame = refused_by(frame, UNKNOWN_LABEL, unknown)
        for code, step, fitted in self.steps:
            if (reason := step.refuse(fitted)) is not None:
                training = pl.col(SPLIT) == SPLITS.index("train")
                frame = refused_by(frame, code, pl.when(training).then(reason))
            frame = apply_operations(frame, [op for op in step.operations(fitted) if op.column not in self.spared])
        return frame

    def _target(self) -> pl.Expr:
        """The index of the class as int64, or the number as float32."""
        label = pl.col(str(self.label))
        if not self.classes:
            return label.cast(pl.Float32)
        return place_among(self.classes, label.cast(pl.String)).cast(pl.Int64)


def _only_kept(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.filter(pl.col(CODE) == 0).drop(*MARKS, "__new", strict=False)


def _splits(codes: str, numbers: pl.Series) -> pl.Series:
    found = np.load(codes, mmap_mode="r")
    first, last = (int(numbers[end]) for end in (0, -1)) if len(numbers) else (0, -1)
    consecutive = last - first + 1 == len(numbers)  # they ascend
    return pl.Series(np.array(found[first : last + 1]) if consecutive else found[numbers.to_numpy()])
