"""Stage ingest: read the source's rows, with a digest of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.catalogue import SOURCES, TABLE_SOURCES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Fetching
from lepton_tasks.core.registry import Registry
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase


def source_state(use_case: UseCase, ctx: RunContext) -> Any:
    """Part of the fingerprint of `ingest`: changes when the source changes."""
    return _source(use_case, ctx).state()


def ingest(use_case: UseCase, ctx: RunContext) -> DatasetRef:
    """Read the source and write its rows as Parquet, with the sha256 of each sample.

    Raises:
        DataError: there is nothing to read.
    """
    source = _source(use_case, ctx)
    if isinstance(source, Fetching):
        source.fetch(ctx)
    if takes_tables(use_case):
        from lepton_tasks.data.tables.ingest import ingest_table

        return ingest_table(use_case, ctx, source=source)
    import pyarrow.parquet as pq

    from lepton_tasks.data.rows import CHUNK_ROWS, with_digests

    draft = ctx.draft()
    rows, size, labels = 0, 0, set()
    for part, table in enumerate(source.read()):
        table = with_digests(table, ctx)
        # Each chunk of samples reads one row group, with the bytes of its files if these are in an archive.
        pq.write_table(table, draft.path / f"part-{part:05d}.parquet", row_group_size=CHUNK_ROWS)
        rows += table.num_rows
        size += sum(table["size_bytes"].to_pylist())
        labels |= set(table["label"].to_pylist()) - {None, ""}
    if not rows:
        raise DataError(
            "the source is empty.",
            where=f"{use_case.name}.yaml: data.source",
            fix="See `path` and the other params of the source.",
        )
    described = source.describe()
    if empty := [name for name, count in described.get("classes", {}).items() if not count]:
        ctx.log.warning("No file in the class folder %s: the class is omitted.", ", ".join(empty))
    write_json(draft.path / "source.json", {**use_case.data.source.model_dump(), **described, "empty_classes": empty})
    facts = {"rows": rows, "classes": len(labels), "bytes": size, "empty_classes": len(empty)}
    return ctx.publish(draft, DatasetRef, facts)


def _source(use_case: UseCase, ctx: RunContext) -> Any:
    registry: Registry[Any] = TABLE_SOURCES if takes_tables(use_case) else SOURCES
    spec = use_case.data.source
    where = f"{use_case.name}.yaml: data.source"
    return registry.build(spec.name, spec.params, where=where, data_root=Path(ctx.environment.data_root))
