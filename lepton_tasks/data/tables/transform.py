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
from lepton_tasks.data.tables.arrays import ArrayFile, as_arrow, write_atomically
from lepton_tasks.data.tables.artifact import open_splits
from lepton_tasks.data.tables.dictionaries import read_dictionaries, unchanged_text_columns
from lepton_tasks.data.tables.fitted_steps import MARK_COLUMNS, SPLIT, TARGET, FittedSteps
from lepton_tasks.data.tables.kernels import Kernel, compute_features, fuse_clips
from lepton_tasks.data.tables.rejected_file import RejectedFile
from lepton_tasks.data.tables.rejections import CODE, REJECTIONS, rejected_rows
from lepton_tasks.data.tables.rows import ROW, Part, TableRows
from lepton_tasks.data.tables.split_assignment import NO_SPLIT

_RAW = "__raw_"
"""Prefix of the kernels' input columns, since a feature may have the same name as its column."""
_IDS_SCHEMA = pa.schema([pa.field("row", pa.int64(), nullable=False)])


def transform_table(
    use_case: UseCase, ctx: RunContext, *, splits: DatasetRef, preprocessor: PreprocessorRef
) -> DatasetRef:
    """Write features, ``targets.npy`` (for tables with a label) and ``ids.parquet`` per split.

    Training rows rejected by a fitted step, and rows of a class unknown in training, go to ``rejected.parquet``
    instead.
    """
    fitted = ctx.read_json(preprocessor, "preprocessor.json")
    spec, label = use_case.features, use_case.data.label
    extractor: Any = TABLE_FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    rows = open_splits(ctx, splits)
    fitted_steps = FittedSteps.of(fitted, label=label, codes=str(rows["train"].codes))
    draft = ctx.draft()
    for name in SPLITS:
        (draft.path / name).mkdir()
    write = _in_one_pass if isinstance(extractor, RowFeatures) else _split_by_split
    size, sizes, rejections = write(extractor, fitted["fitted"], rows, fitted_steps, draft, ctx)
    with RejectedFile(draft.path / "rejected.parquet", fitted_steps.names, rows["train"].parts, ctx) as rejected:
        rejected.add(rows["train"], rejections)
    if len(rejections):
        counts = rejections["code"].value_counts(sort=True).iter_rows()
        summary = ", ".join(f"{fitted_steps.names[code]} {count:,}" for code, count in counts)
        ctx.log.warning("Refused %s rows that earlier steps had kept: %s.", f"{len(rejections):,}", summary)
    write_json(draft.path / "dataset.json", {"labels": fitted["labels"], "rows": sizes})
    facts: dict[str, Fact] = {"classes": len(fitted["labels"]), "bytes": size, "refused": len(rejections)}
    return ctx.publish(draft, DatasetRef, facts | {f"{name}_rows": rows for name, rows in sizes.items()})


Outcome = tuple[int, dict[str, int], pl.DataFrame]
"""Bytes of the features, rows per split, and `REJECTIONS`."""


def _in_one_pass(
    extractor: RowFeatures,
    fitted: Mapping[str, Any],
    rows: Mapping[str, TableRows],
    fitted_steps: FittedSteps,
    draft: Draft,
    ctx: RunContext,
) -> Outcome:
    """Read each part once and write up to three files; features of text are computed once per distinct value."""
    every = _every_row(rows)
    columns = {column.meta.output_name(): column for column in extractor.feature_expressions(fitted)}
    touched = {name for operation in fitted_steps.operations for name in (operation.column, operation.into)}
    texts = set(unchanged_text_columns(every, {name for name in every.schema if name not in touched}))
    roots = {name: set(column.meta.root_names()) for name, column in columns.items()}
    by_value = {name: column for name, column in columns.items() if len(roots[name]) == 1 and roots[name] <= texts}
    kernels = extractor.kernels(fitted)
    by_array = {name for kernel in kernels for name in kernel.names}
    by_row = [column for name, column in columns.items() if name not in by_value and name not in by_array]
    others = fitted_steps.rejecting_columns.union(*(column.meta.root_names() for column in by_row))
    kernels, deferred = fuse_clips(kernels, fitted_steps.operations, others)
    fitted_steps = dataclasses.replace(fitted_steps, deferred=frozenset(deferred))
    raw = [pl.col(name).alias(_RAW + name) for name in sorted({kernel.column for kernel in kernels})]
    made = fitted_steps.annotate(every).changed(functools.partial(_select_features, [*by_row, *raw]))
    write = functools.partial(_write_part, draft.path, _Features(tuple(columns), by_value, tuple(kernels)))
    return _gather(made.map_parts(write, ctx), draft)


def _every_row(rows: Mapping[str, TableRows]) -> TableRows:
    """All rows, including those in no split: removing these last costs one copy of the rows instead of two."""
    return dataclasses.replace(rows["train"], codes=None)


def _select_features(columns: Sequence[pl.Expr], frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.select(ROW, *MARK_COLUMNS, *columns)


def _split_by_split(
    extractor: TableFeatures,
    fitted: Mapping[str, Any],
    rows: Mapping[str, TableRows],
    fitted_steps: FittedSteps,
    draft: Draft,
    ctx: RunContext,
) -> Outcome:
    """The extractor itself reads and writes each split; targets are written for the rows it receives."""
    marks = fitted_steps.annotate(_every_row(rows)).select(MARK_COLUMNS)
    write = functools.partial(_write_part, draft.path, _Features((), {}, ()))
    _, sizes, rejections = _gather(marks.map_parts(write, ctx), draft)
    size = 0
    for name in SPLITS:
        written = extractor.transform(fitted_steps.kept(rows[name]), fitted, draft.path / name, ctx)
        sizes[name] = written["rows"]
        size += written["bytes"]
    return size, sizes, rejections


@dataclasses.dataclass(frozen=True)
class _Written:
    """Result of one part: rejected rows, and per split the features file, row numbers and targets."""

    refused: pl.DataFrame
    splits: dict[str, tuple[Path | None, np.ndarray, np.ndarray | None]]


@dataclasses.dataclass(frozen=True)
class _Features:
    """How the features of a part are computed. Picklable.

    Attributes:
        names: All features, in order.
        by_value: Features of a single text column.
        kernels: Kernels for features of a single numeric or time column. The rest is computed when rows are read.
    """

    names: tuple[str, ...]
    by_value: Mapping[str, pl.Expr]
    kernels: tuple[Kernel, ...]

    def of(self, part: Part, frame: pl.DataFrame) -> pl.DataFrame:
        """The features of a part; removes the kernels' inputs from the frame to free them early."""
        texts = {name: column.meta.root_names()[0] for name, column in self.by_value.items()}
        dictionaries = read_dictionaries(part, sorted(set(texts.values())))
        made = {name: dictionaries[texts[name]].map(column) for name, column in self.by_value.items()}
        for column in dict.fromkeys(kernel.column for kernel in self.kernels):
            values = frame.drop_in_place(_RAW + column)
            for kernel in (kernel for kernel in self.kernels if kernel.column == column):
                arrays = zip(kernel.names, compute_features(kernel, values), strict=True)
                made |= {name: pl.Series(name, as_arrow(array)) for name, array in arrays}
        return pl.DataFrame([made[name] if name in made else frame[name] for name in self.names])


def _write_part(folder: Path, features: _Features, part: Part, frame: pl.DataFrame) -> _Written:
    """Write the kept rows of a part, one file per split, named after its first row.

    Args:
        folder: Output folder.
        features: How features are computed.
        part: The part.
        frame: Its rows, with `MARK_COLUMNS`, features and kernel inputs.
    """
    refused, split = rejected_rows(frame), frame[SPLIT]
    if len(refused):
        split = split.set(frame[CODE] > 0, NO_SPLIT)
    marks, made = frame.select(ROW, TARGET), features.of(part, frame)
    splits: dict[str, tuple[Path | None, np.ndarray, np.ndarray | None]] = {}
    for code, name in enumerate(SPLITS):
        mine = split == code
        rows = marks.filter(mine)
        if not len(rows):
            continue
        path = folder / name / f"part-{rows[ROW][0]:012d}.parquet" if features.names else None
        if path is not None:
            with write_atomically(path) as aside:
                _write_features(made.filter(mine), aside)
        targets = None if rows[TARGET].dtype == pl.Null else rows[TARGET].to_numpy()
        splits[name] = (path, rows[ROW].to_numpy(), targets)
    return _Written(refused, splits)


def _write_features(frame: pl.DataFrame, path: Path) -> None:
    """Write uncompressed: scaled floats do not compress, and it takes half the time (docs/decisions/015)."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    table = table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)


def _ids_file(folder: Path) -> pq.ParquetWriter:
    """Delta-encode ascending row numbers: half a byte each; a dictionary would take 12 times as long."""
    encoding = {"row": "DELTA_BINARY_PACKED"}  # compression would triple the time to save 5 %
    return pq.ParquetWriter(
        folder / "ids.parquet", _IDS_SCHEMA, use_dictionary=False, column_encoding=encoding, compression="none"
    )


def _gather(parts: Iterable[_Written], draft: Draft) -> Outcome:
    """Write ``ids.parquet`` and ``targets.npy`` of every split from the parts' results, in order."""
    size, sizes, rejections = 0, dict.fromkeys(SPLITS, 0), [pl.DataFrame(schema=REJECTIONS)]
    with contextlib.ExitStack() as stack:
        ids = {n: stack.enter_context(_ids_file(draft.path / n)) for n in SPLITS}
        files: dict[str, ArrayFile] = {}
        for part in parts:
            rejections.append(part.refused)
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
    return size, sizes, pl.concat(rejections)
