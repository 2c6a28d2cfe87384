"""Read table features, for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows

_EXACT = 2**24  # largest range of integers that float32 represents exactly


def open_table(features: Path, split: str, fitted: Mapping[str, Any]) -> Rows:
    """Load one split of the extractor ``table`` into memory.

    Args:
        features: Folder of the features artifact.
        split: Name of the split.
        fitted: The extractor's fitted values.

    Returns:
        Inputs float32 [N, numbers + codes], in the order of `table_columns`, and targets.

    Raises:
        DataError: there are no rows, a label is not finite, or a column has more codes than float32 can represent.
    """
    import pyarrow.parquet as pq

    folder = features / split
    for feature in fitted["features"]:
        if feature.get("size", 0) > _EXACT:
            raise DataError(
                f"{feature['size']:,} codes are more than the {_EXACT:,} a network can take.",
                where=f"features.params.columns.{feature['name']}",
                fix="Take fewer buckets.",
            )
    numbers, codes = table_columns(fitted)
    parts = [pq.ParquetFile(path) for path in sorted(folder.glob("part-*.parquet"))]
    inputs = np.empty((sum(part.metadata.num_rows for part in parts), len(numbers) + len(codes)), np.float32)
    start = 0
    for part in parts:
        rows = inputs[start : start + part.metadata.num_rows]
        for column, name in enumerate([*numbers, *codes]):
            rows[:, column] = part.read([name], use_threads=False)[name].to_numpy()
        start += len(rows)
    return _checked(folder, Rows(inputs, _targets(folder)))


def table_columns(fitted: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the numeric and of the code columns of the extractor ``table``, in order."""
    features = fitted["features"]
    numbers = [name for feature in features for name in number_names(feature)]
    return numbers, [feature["name"] for feature in features if not number_names(feature)]


def number_names(feature: Mapping[str, Any]) -> list[str]:
    """The numeric columns of a feature of ``table``; empty for a code."""
    name = str(feature["name"])
    if feature["kind"] == "number":
        return [name]
    if feature["kind"] == "cycle":
        return [f"{name}_sin", f"{name}_cos"]
    return list(feature["names"]) if feature["kind"] == "target" else []


def _targets(folder: Path) -> np.ndarray:
    path = folder / "targets.npy"
    return np.load(path) if path.exists() else np.empty(0)


def _checked(folder: Path, rows: Rows) -> Rows:
    if len(rows.inputs) == 0 or len(rows.inputs) != len(rows.targets):
        raise DataError(
            f"the {folder.name} split has {len(rows.inputs)} inputs and {len(rows.targets)} targets.",
            where=str(folder),
            fix="Give more rows, or a larger share in data.split.",
        )
    if odd := int((~np.isfinite(rows.targets)).sum()):
        raise DataError(
            f"{odd:,} labels of the {folder.name} split are not a number, or infinite.",
            where="data.label",
            fix="Reject such rows with the step `labels` in `clean`.",
        )
    return rows
