"""Stage clean: refuse what cannot be learned from, and say why."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.catalogue import CLEANING_STEPS, FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    import pyarrow as pa


def clean(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> DatasetRef:
    """Write the kept rows with what was found out about them, the refused ones with their reasons, and a report.

    Raises:
        DataError: every row was refused, or a file changed after it was ingested.
    """
    import pyarrow.parquet as pq

    from lepton_tasks.data.clean import probe_rows, refuse_rows

    where = f"{use_case.name}.yaml: clean"
    steps = [(s.name, CLEANING_STEPS.build(s.name, s.params, where=where)) for s in use_case.clean]
    probe = FEATURES.load(use_case.features.name).probe
    parts = sorted(ctx.open(raw).glob("part-*.parquet"))
    total = sum(pq.ParquetFile(part).metadata.num_rows for part in parts)
    probes = probe_rows(probe, (batch.to_pylist() for batch in _batches(parts, 64)), ctx, total=total)
    if probes["content_sha256"].null_count == total:
        first = probes.slice(0, 1).to_pylist()[0]
        raise DataError(f"none of the {total:,} samples can be decoded.", where=first["uri"], fix=first["error"])
    keep, rejected, report = refuse_rows(probes, steps)
    report["classes"] = _per_class(probes, keep)
    if not any(keep):
        raise DataError(
            f"all {total:,} rows were refused: {_counts(report)}.",
            where=where,
            fix=f"First: {rejected['uri'][0]}: {rejected['reason'][0]}.",
        )
    draft = ctx.draft()
    _write_kept(draft.path / "rows.parquet", parts, probes, keep)
    pq.write_table(rejected, draft.path / "rejected.parquet")
    write_json(draft.path / "report.json", report)
    for label, counts in report["classes"].items():
        if label and not counts["rows_kept"]:
            ctx.log.warning("All %d rows of the class %r were refused: it is left out.", counts["rows_in"], label)
    if rejected.num_rows:
        ctx.log.warning("Refused %d of %d rows: %s.", rejected.num_rows, total, _counts(report))
    return ctx.publish(draft, DatasetRef, {"rows": report["rows_kept"], "refused": report["rows_refused"]})


def _batches(parts: list[Path], size: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for part in parts:
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_size=size)


def _write_kept(path: Path, parts: list[Path], probes: pa.Table, keep: list[bool]) -> None:
    """Rows as they came, without the bytes where all lie at their uri, beside what the probe found."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = probes.append_column("_keep", pa.array(keep)).combine_chunks()
    payload = any(batch["data"].null_count < len(batch) for batch in _batches(parts, 1_000))
    writer, start = None, 0
    for batch in _batches(parts, 1_000):
        rows = found.slice(start, len(batch))
        start += len(batch)
        if payload:
            rows = rows.append_column("data", batch["data"])
        rows = rows.filter(rows["_keep"]).drop_columns(["_keep", "error"])
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)
    if writer is not None:
        writer.close()


def _per_class(probes: pa.Table, keep: list[bool]) -> dict[str, dict[str, int]]:
    labels = [label or "" for label in probes["label"].to_pylist()]
    came = collections.Counter(labels)
    kept = collections.Counter(label for label, k in zip(labels, keep, strict=True) if k)
    return {label: {"rows_in": count, "rows_kept": kept[label]} for label, count in sorted(came.items())}


def _counts(report: dict[str, Any]) -> str:
    return ", ".join(f"{step['step']} {step['refused']}" for step in report["steps"] if step["refused"])
