"""Write each split in training format: Parquet parts or arrays, targets and row numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.artifacts import DatasetRef, Fact, PreprocessorRef
from lepton_tasks.core.catalogue import TABLE_FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import Draft, write_json
from lepton_tasks.core.table_protocols import RowFeatures, TableFeatures
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.arrays import ArrayFile, as_arrow, written_aside
from lepton_tasks.data.tables.artifact import open_splits
from lepton_tasks.data.tables.cuts import NOWHERE
from lepton_tasks.data.tables.dictionaries import read_dictionaries, texts_as_they_lie
from lepton_tasks.data.tables.kernels import Kernel, computed, with_clips
from lepton_tasks.data.tables.marks import MARKS, SPLIT, TARGET, Marking
from lepton_tasks.data.tables.refusals import CODE, REFUSALS, refusals_in
from lepton_tasks.data.tables.rejected import RejectedFile
from lepton_tasks.data.tables.rows import ROW, Part, TableRows

_RAW = "__raw_"
"""Begins the names of the columns that kernels make features of: a feature may have the name of its column."""
_IDS_SCHEMA = pa.schema([pa.field("row", pa.int64(), nullable=False)])


def transform_table(
    use_case: UseCase, ctx: RunContext, *, splits: DatasetRef, preprocessor: PreprocessorRef
) -> DatasetRef:
    """Write per split the features, ``targets.npy`` if the table has a label, and ``ids.parquet``.

    Training rows that a fitted step refuses, and rows of a class unknown in training, are left out and go to
    ``rejected.parquet``.
    """
    fitted = ctx.read_json(preprocessor, "preprocessor.json")
    spec, label = use_case.features, use_case.data.label
    extractor: Any = TABLE_FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    rows = open_splits(ctx, splits)
    marking = Marking.of(fitted, label=label, codes=str(rows["train"].codes))
    draft = ctx.draft()
    for name in SPLITS:
        (draft.path / name).mkdir()
    write = _in_one_pass if isinstance(extractor, RowFeatures) else _split_by_split
    size, sizes, refusals = write(extractor, fitted["fitted"], rows, marking, draft, ctx)
    with RejectedFile(draft.path / "rejected.parquet", marking.names, rows["train"].parts, ctx) as rejected:
        rejected.add(rows["train"], refusals)
    if len(refusals):
        counts = refusals["code"].value_counts(sort=True).iter_rows()
        told = ", ".join(f"{marking.names[code]} {count:,}" for code, count in counts)
        ctx.log.warning("Refused %s rows that earlier steps had kept: %s.", f"{len(refusals):,}", told)
    write_json(draft.path / "dataset.json", {"labels": fitted["labels"], "rows": sizes})
    facts: dict[str, Fact] = {"classes": len(fitted["labels"]), "bytes": size, "refused": len(refusals)}
    return ctx.publish(draft, DatasetRef, facts | {f"{name}_rows": rows for name, rows in sizes.items()})


Outcome = tuple[int, dict[str, int], pl.DataFrame]
"""Bytes of the features, rows per split, and `REFUSALS`."""


def _in_one_pass(
    extractor: RowFeatures,
    fitted: Mapping[str, Any],
    rows: Mapping[str, TableRows],
    marking: Marking,
    draft: Draft,
    ctx: RunContext,
) -> Outcome:
    """Each part is read once, and written as up to three. What a text becomes is computed once for equal ones."""
    every = _every_row(rows)
    columns = {column.meta.output_name(): column for column in extractor.express(fitted)}
    touched = {name for operation in marking.operations for name in (operation.column, operation.into)}
    texts = set(texts_as_they_lie(every, {name for name in every.schema if name not in touched}))
    roots = {name: set(column.meta.root_names()) for name, column in columns.items()}
    by_value = {name: column for name, column in columns.items() if len(roots[name]) == 1 and roots[name] <= texts}
    kernels = extractor.kernels(fitted)
    by_array = {name for kernel in kernels for name in kernel.names}
    by_row = [column for name, column in columns.items() if name not in by_value and name not in by_array]
    others = marking.looked_at.union(*(column.meta.root_names() for column in by_row))
    kernels, spared = with_clips(kernels, marking.operations, others)
    marking = dataclasses.replace(marking, spared=frozenset(spared))
    raw = [pl.col(name).alias(_RAW + name) for name in sorted({kernel.column for kernel in kernels})]
    made = marking.mark(every).changed(functools.partial(_express, [*by_row, *raw]))
    write = functools.partial(_write_part, draft.path, _Features(tuple(columns), by_value, tuple(kernels)))
    return _gather(made.map_parts(write, ctx), draft)


def _every_row(rows: Mapping[str, TableRows]) -> TableRows:
    """All rows, those that are in no split among them: to leave them out last costs one copy of the rows, not two."""
    return dataclasses.replace(rows["train"], codes=None)


def _express(columns: Sequence[pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.select(ROW, *MARKS, *columns)


def _split_by_split(
    extractor: TableFeatures,
    fitted: Mapping[str, Any],
    rows: Mapping[str, TableRows],
    marking: Marking,
    draft: Draft,
    ctx: RunContext,
) -> Outcome:
    """The extractor reads and writes each split as it likes; the targets are those of the rows it was given."""
    marks = marking.mark(_every_row(rows)).select(MARKS)
    write = functools.partial(_write_part, draft.path, _Features((), {}, ()))
    _, sizes, refusals = _gather(marks.map_parts(write, ctx), draft)
    size = 0
    for name in SPLITS:
        written = extractor.transform(marking.kept(rows[name]), fitted, draft.path / name, ctx)
        sizes[name] = written["rows"]
        size += written["bytes"]
    return size, sizes, refusals


@dataclasses.dataclass(frozen=True)
class _Written:
    """What one part gave: refused rows, and per split the file of features, the rows' numbers and their targets."""

    refused: pl.DataFrame
    splits: dict[str, tuple[Path | None, np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class _Features:
    """How the features of a part are made. Picklable.

    Attributes:
        names: All of them, in order.
        by_value: Those of one column of text each.
        kernels: Those of one column of numbers or times each. The others are made when the rows are read.
    """

    names: tuple[str, ...]
    by_value: Mapping[str, pl.Expr]
    kernels: tuple[Kernel, ...]

    def of(self, part: Part, frame: pl.DataFrame) -> pl.DataFrame:
        """The features of a part's rows; takes what `kernels` need out of the frame, so that it is freed early."""
        texts = {name: column.meta.root_names()[0] for name, column in self.by_value.items()}
        dictionaries = read_dictionaries(part, sorted(set(texts.values())))
        made = {name: dictionaries[texts[name]].map(column) for name, column in self.by_value.items()}
        for column in dict.fromkeys(kernel.column for kernel in self.kernels):
            values = frame.drop_in_place(_RAW + column)
            for kernel in (kernel for kernel in self.kernels if kernel.column == column):
                arrays = zip(kernel.names, computed(kernel, values), strict=True)
                made |= {name: pl.Series(name, as_arrow(array)) for name, array in arrays}
        return pl.DataFrame([made[name] if name in made else frame[name] for name in self.names])


def _write_part(folder: Path, features: _Features, part: Part, frame: pl.DataFrame) -> _Written:
    """Write a part's kept rows, split by split; the file is named after the part's first row.

    Args:
        folder: Where to.
        features: What is made of the rows.
        part: The rows' place.
        frame: Its rows, with `MARKS`, features, and the columns of which others are made.
    """
    refused, split = refusals_in(frame), frame[SPLIT]
    if len(refused):
        split = split.set(frame[CODE] > 0, NOWHERE)
    marks, made = frame.select(ROW, TARGET), features.of(part, frame)
    splits: dict[str, tuple[Path | None, np.ndarray, np.ndarray | None]] = {}
    for code, name in enumerate(SPLITS):
        mine = split == code
        rows = marks.filter(mine)
        if not len(rows):
            continue
        path = folder / name / f"part-{rows[ROW][0]:012d}.parquet" if features.names else None
        if path is not None:
            with written_aside(path) as aside:
                _write_features(made.filter(mine), aside)
        targets = None if rows[TARGET].dtype == pl.Null else rows[TARGET].to_numpy()
        splits[name] = (path, rows[ROW].to_numpy(), targets)
    return _Written(refused, splits)


def _write_features(frame: pl.DataFrame, path: Path) -> None:
    """Scaled floats do not compress, and no feature is null: the plain way takes half the time (docs/decisions/015)."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    table = table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)


def _ids_file(folder: Path) -> pq.ParquetWriter:
    """Rising numbers: as differences they take half a byte each, and a dictionary of them 12 times as long to make."""
    encoding = {"row": "DELTA_BINARY_PACKED"}  # to compress them, too, takes three times as long, for a twentieth
    return pq.ParquetWriter(
        folder / "ids.parquet", _IDS_SCHEMA, use_dictionary=False, column_encoding=encoding, compression="none"
    )


def _gather(parts: Iterable[_Written], draft: Draft) -> Outcome:
    """Write ``ids.parquet`` and ``targets.npy`` of every split from what the parts gave, in order."""
    size, sizes, refusals = 0, dict.fromkeys(SPLITS, 0), [pl.DataFrame(schema=REFUSALS)]
    with contextlib.ExitStack() as stack:
        ids = {n: stack.enter_context(_ids_file(draft.path / n)) for n in SPLITS}
        files: dict[str, ArrayFile] = {}
        for part in parts:
            refusals.append(part.refused)
            for name, (path, numbers, targets) in part.splits.items():
                if path is not None:
                    size += path.stat().st_size
                    draft.settle(path)
                sizes[name] += len(numbers)
                ids[name].write_table(pl.DataFrame({"row": numbers}).to_arrow().cast(_IDS_SCHEMA))
                if targets is None:
                    continue
                if name not in files:
                    file = ArrayFile(draft.path / name / "targets.npy", targets.dtype)
                    files[name] = stack.enter_context(file)
                files[name].append(targets)
    return size, sizes, pl.concat(refusals)
