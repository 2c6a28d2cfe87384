"""Apply the cleaning steps in order and record every rejected or repaired row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from lepton_tasks.core.protocols import CleaningStep, RevisingStep

_EXAMPLES = 5
_NAMES = ("sample_id", "uri", "label")

REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in (*_NAMES, "step", "reason")])
REPAIRED_SCHEMA = pa.schema([(name, pa.string()) for name in (*_NAMES, "step", "change")])


class Cleaned(NamedTuple):
    """Result of cleaning."""

    probes: pa.Table
    """The kept rows, after the steps' changes."""
    rejected: pa.Table
    """`REJECTED_SCHEMA`: one line per rejected row."""
    repaired: pa.Table
    """`REPAIRED_SCHEMA`: one line per repair of a kept row."""
    report: dict[str, Any]
    """Counts and examples, total and per step."""


def clean_rows(probes: pa.Table, steps: Sequence[tuple[str, CleaningStep]]) -> Cleaned:
    """Apply the steps in order; each sees only the rows that the previous ones kept, with their changes."""
    total = probes.num_rows
    rejected: list[dict[str, Any]] = []
    repaired: list[dict[str, Any]] = []
    report = []
    for name, step in steps:
        changes: Sequence[str | None] = [None] * probes.num_rows
        if isinstance(step, RevisingStep):
            probes, changes = step.revise(probes)
        reasons = step.refuse(probes)
        lines = probes.select(_NAMES).to_pylist()
        dropped = [
            {**line, "step": name, "reason": reason} for line, reason in zip(lines, reasons, strict=True) if reason
        ]
        fixed = [
            {**line, "step": name, "change": change}
            for line, reason, change in zip(lines, reasons, changes, strict=True)
            if change and not reason
        ]
        counts = {"rows_in": len(lines), "refused": len(dropped), "repaired": len(fixed)}
        report.append({"step": name, **counts, "examples": (dropped or fixed)[:_EXAMPLES]})
        rejected, repaired = rejected + dropped, repaired + fixed
        probes = probes.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    kept = set(probes["sample_id"].to_pylist())
    repaired = [line for line in repaired if line["sample_id"] in kept]
    summary = {
        "rows_in": total,
        "rows_kept": probes.num_rows,
        "rows_refused": len(rejected),
        "rows_repaired": len({line["sample_id"] for line in repaired}),
        "steps": report,
    }
    return Cleaned(
        probes,
        pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA),
        pa.Table.from_pylist(repaired, schema=REPAIRED_SCHEMA),
        summary,
    )
