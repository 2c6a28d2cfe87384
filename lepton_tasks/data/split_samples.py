"""Split samples by content, visual similarity and metadata columns."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split import SPLITS, assign_splits, linked_keys


def split_samples(rows: pa.Table, sizes: Split, *, seed: int) -> list[str]:
    """The split of each cleaned row.

    With every method, rows of equal content, of one ``group``, or found alike by `near_duplicates` stay together.

    Args:
        rows: ``content_sha256, label, uri``, and the column of `sizes`.
        sizes: Fractions, method and column.
        seed: Random seed.

    Raises:
        ConfigError: the column is missing.
        DataError: it contains nulls, required labels are missing, there is only one class, or a class is not in every
            split.
    """
    contents, labels = rows["content_sha256"].to_pylist(), rows["label"].to_pylist()
    classes = any(labels) and sizes.method in ("stratified", "random")
    if sizes.method == "last":
        raise ConfigError("`last` splits tables only.", where="data.split.method", fix="Write `time`.")
    if sizes.method == "stratified":
        _check_labels(labels)
    primary, times = contents, None
    if sizes.method in ("group", "hash"):
        primary = [str(value) for value in _column(rows, sizes)]
    elif sizes.method == "file":
        primary = [uri.split("#")[0] for uri in rows["uri"].to_pylist()]
    elif sizes.method == "time":
        times = _column(rows, sizes)
    bonds = [rows[name].to_pylist() for name in ("alike", "group") if name in rows.column_names]
    keys = linked_keys(primary, contents, *bonds)
    if classes:
        _check_classes(dict(zip(keys, labels, strict=True)))
    splits = assign_splits(keys, sizes, seed=seed, strata=labels, times=times)
    _check_splits(splits, labels, SPLITS if classes else ("train",))
    return splits


def _column(rows: pa.Table, sizes: Split) -> list[Any]:
    where = "data.split.column"
    if sizes.column not in rows.column_names:
        raise ConfigError(
            f"there is no column {sizes.column!r}.", where=where, fix=did_you_mean(str(sizes.column), rows.column_names)
        )
    values: list[Any] = rows[sizes.column].to_pylist()
    if missing := sum(value is None for value in values):
        raise DataError(
            f"{missing:,} rows have no {sizes.column!r}.", where=where, fix="Fill it in, or choose another method."
        )
    return values


def _check_labels(labels: Sequence[str | None]) -> None:
    if labels and not any(labels):
        raise DataError(
            "no row has a label, so that their shares cannot be kept alike.",
            where="data.split.method",
            fix="Choose random, hash, group, time or file.",
        )
    if missing := sum(not label for label in labels):
        raise DataError(f"{missing:,} rows have no label.", where="clean", fix="Add the step `unlabelled`.")


def _check_classes(label_of: dict[str, str | None]) -> None:
    counts = collections.Counter(label for label in label_of.values() if label)
    if len(counts) < 2:
        raise DataError(
            f"there is only one class, {next(iter(counts))!r}: nothing can be told apart.",
            where="split",
            fix="Give at least two classes with samples that `clean` keeps.",
        )
    if small := [f"{label!r} has {count}" for label, count in sorted(counts.items()) if count < len(SPLITS)]:
        raise DataError(
            f"too few different samples: {', '.join(small)}; a class needs {len(SPLITS)}, one for each split.",
            where="split",
            fix="Add samples to the class, or remove it from the source (in an image folder: its sub-folder).",
        )


def _check_splits(splits: Sequence[str], labels: Sequence[str | None], needed: Sequence[str]) -> None:
    present = set(zip(splits, labels, strict=True))
    for label in sorted({label for label in labels if label}):
        if absent := [split for split in needed if (split, label) not in present]:
            raise DataError(
                f"the class {label!r} is not in {' and '.join(absent)}.",
                where="data.split",
                fix="Choose the method stratified, enlarge that split, or add samples to the class.",
            )
