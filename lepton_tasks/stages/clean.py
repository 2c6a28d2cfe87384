"""Stage clean: reject unusable rows, with reasons."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.catalogue import CLEANING_STEPS, FEATURES
from lepton_tasks.core.components import learns_numbers, takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    import pyarrow as pa


def label_state(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> dict[str, Any] | None:
    """Part of the fingerprint of `clean`: the label column, if it must be numeric."""
    del ctx, raw
    return {"numbers": use_case.data.label} if takes_tables(use_case) and learns_numbers(use_case) else None


def clean(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> DatasetRef:
    """Apply the cleaning steps; write the kept, rejected and repaired rows and a report.

    Raises:
        DataError: every row was rejected, or a file changed after ingestion.
    """
    if takes_tables(use_case):
        from lepton_tasks.data.tables.clean import clean_table

        return clean_table(use_case, ctx, raw=raw)
    draft = ctx.draft()
    try:
        report = _clean(use_case, ctx, ctx.open(raw), draft.path)
    except BaseException:
        draft.discard()  # it contains all arrays
        raise
    facts = {"rows": report["rows_kept"], "refused": report["rows_refused"], "repaired": report["rows_repaired"]}
    return ctx.publish(draft, DatasetRef, facts)


def _clean(use_case: UseCase, ctx: RunContext, raw: Path, folder: Path) -> dict[str, Any]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from lepton_tasks.data.clean.apply import clean_rows
    from lepton_tasks.data.clean.probes import probe_rows
    from lepton_tasks.data.samples import ARRAYS

    where = f"{use_case.name}.yaml: clean"
    steps = [(s.name, CLEANING_STEPS.build(s.name, s.params, where=where)) for s in use_case.clean]
    spec = use_case.features
    extractor = FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    probes = probe_rows(extractor, sorted(raw.glob("part-*.parquet")), ctx, folder / ARRAYS)
    total = probes.num_rows
    if probes["content_sha256"].null_count == total:
        first = probes.slice(0, 1).to_pylist()[0]
        raise DataError(f"none of the {total:,} samples can be decoded.", where=first["uri"], fix=first["error"])
    cleaned = clean_rows(probes, steps)
    report = cleaned.report | {"classes": _per_class(probes, cleaned.probes)}
    if not report["rows_kept"]:
        first = cleaned.rejected.slice(0, 1).to_pylist()[0]
        raise DataError(
            f"all {total:,} rows were refused: {_counts(report, 'refused')}.",
            where=where,
            fix=f"First: {first['uri']}: {first['reason']}.",
        )
    for row in cleaned.probes.filter(pc.is_valid(cleaned.probes["error"])).slice(0, 1).to_pylist():
        raise DataError(row["error"], where=row["uri"], fix="Add the step `undecodable` to `clean`.")
    pq.write_table(cleaned.probes.drop_columns(["error"]), folder / "rows.parquet", row_group_size=1_000)
    pq.write_table(cleaned.rejected, folder / "rejected.parquet")
    pq.write_table(cleaned.repaired, folder / "repaired.parquet")
    write_json(folder / "report.json", report)
    for label, counts in report["classes"].items():
        if label and not counts["rows_kept"]:
            ctx.log.warning("All %d rows of the class %r were refused: it is omitted.", counts["rows_in"], label)
    for done, word in (("refused", "Refused"), ("repaired", "Repaired")):
        if report[f"rows_{done}"]:
            ctx.log.warning("%s %d of %d rows: %s.", word, report[f"rows_{done}"], total, _counts(report, done))
    return report


def _per_class(before: pa.Table, after: pa.Table) -> dict[str, dict[str, int]]:
    counts_in, counts_kept = (
        collections.Counter(label or "" for label in rows["label"].to_pylist()) for rows in (before, after)
    )
    return {label: {"rows_in": count, "rows_kept": counts_kept[label]} for label, count in sorted(counts_in.items())}


def _counts(report: dict[str, Any], done: str) -> str:
    return ", ".join(f"{step['step']} {step[done]}" for step in report["steps"] if step[done])
