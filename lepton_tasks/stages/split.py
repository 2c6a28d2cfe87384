"""Stage split: assign rows to train, validation and test."""

from __future__ import annotations

import collections

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def split(use_case: UseCase, ctx: RunContext, *, cleaned: DatasetRef) -> DatasetRef:
    """Assign each cleaned row to train, validation or test (column ``split``).

    Raises:
        DataError: a class is too small to be in every split, or a split would be empty.
    """
    if takes_tables(use_case):
        from lepton_tasks.data.tables.split import split_table

        return split_table(use_case, ctx, cleaned=cleaned)
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lepton_tasks.data.split import SPLITS
    from lepton_tasks.data.split_samples import split_samples

    rows = pq.read_table(ctx.open(cleaned) / "rows.parquet")
    splits = split_samples(rows, use_case.data.split, seed=ctx.seed)
    draft = ctx.draft()
    pq.write_table(rows.append_column("split", pa.array(splits)), draft.path / "rows.parquet", row_group_size=1_000)
    counts = collections.Counter(splits)
    return ctx.publish(draft, DatasetRef, {f"{name}_rows": counts[name] for name in SPLITS})
