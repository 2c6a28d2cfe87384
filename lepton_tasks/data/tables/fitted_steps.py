"""Apply the fitted cleaning steps to rows, annotated with split, target and rejection for the transform stage."""

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
from lepton_tasks.data.tables.labels import class_index
from lepton_tasks.data.tables.operations import Operation, apply_operations
from lepton_tasks.data.tables.rejections import CODE, REASON, reject_rows, without_rejections
from lepton_tasks.data.tables.rows import ROW, Change, TableRows
from lepton_tasks.data.tables.split_assignment import NO_SPLIT

SPLIT, TARGET = "__split", "__target"
"""The row's split, uint8; and its target, null without a label column."""
MARK_COLUMNS = (SPLIT, TARGET, CODE, REASON)

UNKNOWN_LABEL = 255
"""Rejection code of rows whose class is unknown in training; step codes start at 1."""


def training_change(step: FittedStep, fitted: Mapping[str, Any]) -> Change:
    """The change a step makes to training rows, including the removal of rejected rows."""
    return functools.partial(_training_rows, step, fitted)


def _training_rows(step: FittedStep, fitted: Mapping[str, Any], frame: pl.LazyFrame) -> pl.LazyFrame:
    reason = step.refuse(fitted)
    return apply_operations(frame if reason is None else frame.filter(reason.is_null()), step.operations(fitted))


@dataclasses.dataclass(frozen=True)
class FittedSteps:
    """The fitted steps and the classes of a ``preprocessor.json``. Picklable.

    Attributes:
        steps: Code, step and fitted values of each fitted step.
        names: Step name by code.
        label: The label column.
        classes: Class names; empty for a numeric label.
        codes: Path of ``splits.npy``.
        deferred: Columns whose operations are applied later, by kernels.
    """

    steps: tuple[tuple[int, FittedStep, Mapping[str, Any]], ...]
    names: dict[int, str]
    label: str | None
    classes: tuple[str, ...]
    codes: str
    deferred: frozenset[str] = frozenset()

    @classmethod
    def of(cls, preprocessor: Mapping[str, Any], *, label: str | None, codes: str) -> FittedSteps:
        """Rebuild the steps from the content of ``preprocessor.json``."""
        entries = preprocessor["steps"]
        steps = tuple((e["code"], TABLE_STEPS.build(e["name"], e["params"]), e["fitted"]) for e in entries)
        names = {e["code"]: e["name"] for e in entries} | {UNKNOWN_LABEL: "unknown label"}
        return cls(steps, names, label, tuple(preprocessor["labels"]), codes)  # type: ignore[arg-type]  # only fitted steps

    @property
    def operations(self) -> list[Operation]:
        """All operations of the fitted steps."""
        return [operation for _, step, fitted in self.steps for operation in step.operations(fitted)]

    @property
    def rejecting_columns(self) -> set[str]:
        """Columns that the rejection rules of the fitted steps read."""
        reasons = (step.refuse(fitted) for _, step, fitted in self.steps)
        return {name for reason in reasons if reason is not None for name in reason.meta.root_names()}

    def annotate(self, rows: TableRows) -> TableRows:
        """The rows after the fitted steps, with `MARK_COLUMNS`; rejected rows are included."""
        return rows.changed(functools.partial(self._annotate, self.codes))

    def kept(self, rows: TableRows) -> TableRows:
        """The rows after the fitted steps, without rejected rows."""
        return self.annotate(rows).changed(_only_kept)

    def _annotate(self, codes: str, frame: pl.LazyFrame) -> pl.LazyFrame:
        split = pl.col(ROW).map_batches(functools.partial(_splits, codes), return_dtype=pl.UInt8, is_elementwise=True)
        target = self._target() if self.label else pl.lit(None)
        frame = without_rejections(frame.with_columns(split.alias(SPLIT), target.alias(TARGET)))
        if self.classes:
            placed = pl.col(SPLIT) != NO_SPLIT
            unknown = pl.when(placed & pl.col(TARGET).is_null()).then(pl.lit("a class unknown in training"))
            frame = reject_rows(frame, UNKNOWN_LABEL, unknown)
        for code, step, fitted in self.steps:
            if (reason := step.refuse(fitted)) is not None:
                training = pl.col(SPLIT) == SPLITS.index("train")
                frame = reject_rows(frame, code, pl.when(training).then(reason))
            frame = apply_operations(frame, [op for op in step.operations(fitted) if op.column not in self.deferred])
        return frame

    def _target(self) -> pl.Expr:
        """The class index as int64, or the numeric label as float32."""
        label = pl.col(str(self.label))
        if not self.classes:
            return label.cast(pl.Float32)
        return class_index(self.classes, label.cast(pl.String)).cast(pl.Int64)


def _only_kept(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.filter(pl.col(CODE) == 0).drop(*MARK_COLUMNS, "__new", strict=False)


def _splits(codes: str, numbers: pl.Series) -> pl.Series:
    found = np.load(codes, mmap_mode="r")
    first, last = (int(numbers[end]) for end in (0, -1)) if len(numbers) else (0, -1)
    consecutive = last - first + 1 == len(numbers)  # numbers are ascending
    return pl.Series(np.array(found[first : last + 1]) if consecutive else found[numbers.to_numpy()])
