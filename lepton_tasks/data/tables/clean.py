"""Apply cleaning steps to a table: rows are not moved, rejected rows get a code, changed columns their own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.components import learns_numbers
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.tables.artifact import open_raw, parts_entry, write_table
from lepton_tasks.data.tables.cleaning import Cleaning
from lepton_tasks.data.tables.labels import check_numbers
from lepton_tasks.data.tables.named_steps import check_steps, steps_of
from lepton_tasks.data.tables.rejected_file import RejectedFile


def clean_table(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> DatasetRef:
    """Write the rejection codes, ``rejected.parquet`` and ``report.json``.

    Rows stay in their files; changed columns are written separately. Only a step that needs all rows at once writes
    new parts.

    Raises:
        ConfigError: a step names a missing column, or a label is not numeric as required.
        DataError: every row was rejected.
    """
    rows = open_raw(ctx, raw)
    steps = steps_of(use_case)
    check_steps(steps, rows.schema, where=f"{use_case.name}.yaml")
    draft = ctx.draft()
    names = {step.code: step.spec.name for step in steps}
    with RejectedFile(draft.path / "rejected.parquet", names, rows.parts, ctx) as rejected:
        cleaning = Cleaning(rows, draft, rejected, ctx)
        cleaning.apply([step for step in steps if step.kind != "fitted"])
        cleaning.finish()
    if learns_numbers(use_case) and (label := use_case.data.label) in cleaning.rows.schema:
        check_numbers(cleaning.rows, label, ctx)
    report = _report(cleaning, rejected, rows.height)
    if not cleaning.kept:
        raise DataError(
            f"all {rows.height:,} rows were refused: {_counts(report)}.", where=f"{use_case.name}.yaml: clean"
        )
    if report["rows_refused"]:
        ctx.log.warning("Refused %d of %d rows: %s.", report["rows_refused"], rows.height, _counts(report))
    write_json(draft.path / "report.json", report)
    parts = {"parts": parts_entry(cleaning.rows.parts, draft.path)} if cleaning.rewritten else {}
    changed = [part.changed and Path(part.changed).name for part in cleaning.rows.parts]
    write_table(draft.path, raw=raw, rows=cleaning.kept, changed=changed, **parts)
    return ctx.publish(draft, DatasetRef, {"rows": cleaning.kept, "refused": report["rows_refused"]})


def _report(cleaning: Cleaning, rejected: RejectedFile, rows_in: int) -> dict[str, Any]:
    """Report with consistent counts: rows_in + rows_made == rows_kept + rows_refused."""
    steps = [entry | {"examples": rejected.examples[entry["code"]]} for entry in cleaning.report]
    refused = sum(entry["refused"] for entry in steps)
    made = sum(entry.get("made", 0) for entry in steps)
    return {"rows_in": rows_in, "rows_made": made, "rows_kept": cleaning.kept, "rows_refused": refused, "steps": steps}


def _counts(report: dict[str, Any]) -> str:
    return ", ".join(f"{entry['step']} {entry['refused']}" for entry in report["steps"] if entry["refused"])
