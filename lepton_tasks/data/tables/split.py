"""Split a table by assigning a code to each row; rows are not moved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.artifact import SPLITS_FILE, open_cleaned, write_table
from lepton_tasks.data.tables.split_assignment import assign_splits
from lepton_tasks.data.tables.split_order import POSITION, STRATUM, split_order


def split_table(use_case: UseCase, ctx: RunContext, *, cleaned: DatasetRef) -> DatasetRef:
    """Write ``splits.npy``, the split code of each row of the table.

    Raises:
        ConfigError: the label or the column to split by is missing.
        DataError: a row has no label, or a class is too small for all splits.
    """
    rows = open_cleaned(ctx, cleaned)
    placed = rows.changed(split_order(use_case, rows, seed=ctx.seed)).select([STRATUM, POSITION])
    draft = ctx.draft()
    total = sum(map(len, rows.parts))
    codes = np.lib.format.open_memmap(draft.path / SPLITS_FILE, mode="w+", dtype=np.uint8, shape=(total,))
    with tempfile.TemporaryDirectory(dir=draft.path, prefix=".strata-") as aside:
        for places, assigned in assign_splits(placed, use_case.data.split, ctx, Path(aside)):
            codes[places] = assigned
    sizes = {name: int(np.count_nonzero(codes == code)) for code, name in enumerate(SPLITS)}
    codes.flush()
    if empty := [name for name, size in sizes.items() if not size]:
        raise DataError(
            f"no row is in {' and '.join(empty)}.",
            where=f"{use_case.name}.yaml: data.split",
            fix="Enlarge that split, or choose a column with more distinct values.",
        )
    write_table(draft.path, cleaned=cleaned, rows=sizes)
    return ctx.publish(draft, DatasetRef, {f"{name}_rows": size for name, size in sizes.items()})
