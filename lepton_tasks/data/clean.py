"""Probe every sample once, then refuse rows step by step, each with a reason."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import pyarrow as pa
import pydantic

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import CleaningStep
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.rows import RAW_SCHEMA, Row, payload_of

_EXAMPLES = 5

_TYPES = {field.name: field.type for field in RAW_SCHEMA} | {"content_sha256": pa.string(), "error": pa.string()}
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("sample_id", "uri", "label", "step", "reason")])


class Undecodable:
    """Refuse what is no whole picture: broken, cut short, of another kind, or not readable at all."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The decoder's own reason."""
        reasons: list[str | None] = probes["error"].to_pylist()
        return reasons


@dataclasses.dataclass(frozen=True)
class TooSmall:
    """Refuse pictures whose width or height is below a limit.

    Args:
        min_pixels: Smallest allowed side, in pixels.
    """

    min_pixels: Annotated[int, pydantic.Field(ge=1)] = 8

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The size and the limit. What could not be decoded has no size and passes."""
        sizes = zip(probes["width"].to_pylist(), probes["height"].to_pylist(), strict=True)
        return [
            f"{width} x {height} pixels, less than {self.min_pixels} on a side"
            if width is not None and min(width, height) < self.min_pixels
            else None
            for width, height in sizes
        ]


class Unlabelled:
    """Refuse rows without a label, or with a blank one."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """One reason for all."""
        return [None if label and label.strip() else "no label" for label in probes["label"].to_pylist()]


class Duplicates:
    """Refuse all but the first of equal samples; all of them if their labels differ, since one must be wrong."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The sample it equals. What could not be decoded equals nothing."""
        names, labels = probes["sample_id"].to_pylist(), probes["label"].to_pylist()
        contents = probes["content_sha256"].to_pylist()
        first: dict[str, dict[str | None, int]] = collections.defaultdict(dict)  # content -> label -> its first row
        for row, (content, label) in enumerate(zip(contents, labels, strict=True)):
            if content is not None:
                first[content].setdefault(label, row)
        reasons: list[str | None] = []
        for row, (content, label) in enumerate(zip(contents, labels, strict=True)):
            equals = first.get(content, {})
            rivals = [other for other in equals.values() if labels[other] != label]
            if rivals:
                rival = rivals[0]
                reasons.append(f"conflicting labels: same content as {names[rival]}, labelled {labels[rival]!r}")
            elif equals and equals[label] != row:
                reasons.append(f"same content as {names[equals[label]]}")
            else:
                reasons.append(None)
        return reasons


def probe_rows(
    probe: Callable[[bytes], dict[str, Any]], chunks: Iterable[list[Row]], ctx: RunContext, *, total: int
) -> pa.Table:
    """One light row per sample, in order: what is known of it, what `probe` finds, or the ``error`` it raised."""
    found: list[dict[str, Any]] = []
    for part in map_chunks(functools.partial(_probe_chunk, probe), chunks, ctx, total=total, unit="samples"):
        found += part
    # The first row may be undecodable, so the columns are gathered from all of them.
    columns = list(dict.fromkeys(name for row in found for name in row))
    return pa.table({name: pa.array([row.get(name) for row in found], _TYPES.get(name)) for name in columns})


def _probe_chunk(probe: Callable[[bytes], dict[str, Any]], rows: list[Row]) -> list[dict[str, Any]]:
    return [_probe_row(probe, row) for row in rows]


def _probe_row(probe: Callable[[bytes], dict[str, Any]], row: Row) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if name != "data"}
    empty = {"content_sha256": None, "error": None}
    if row["sha256"] is None:
        return {**known, **empty, "error": "the file cannot be read."}
    payload = payload_of(row)
    try:
        return {**known, **empty, **probe(payload)}
    except DataError as error:
        return {**known, **empty, "error": error.what}


def refuse_rows(
    probes: pa.Table, steps: Sequence[tuple[str, CleaningStep]]
) -> tuple[list[bool], pa.Table, dict[str, Any]]:
    """Apply the steps in order.

    Returns:
        Whether each row is kept; the refused rows (`REJECTED_SCHEMA`); the report, whose counts add up.
    """
    refusal: list[tuple[str, str] | None] = [None] * probes.num_rows
    report = []
    for name, step in steps:
        rows = [row for row, reason in enumerate(refusal) if reason is None]
        reasons = step.refuse(probes.take(pa.array(rows, pa.int64())))
        refused = [(row, reason) for row, reason in zip(rows, reasons, strict=True) if reason is not None]
        for row, reason in refused:
            refusal[row] = (name, reason)
        report.append({"step": name, "rows_in": len(rows), "refused": len(refused)})
    names = probes.select(["sample_id", "uri", "label"]).to_pylist()
    rejected = [
        {**line, "step": reason[0], "reason": reason[1]}
        for line, reason in zip(names, refusal, strict=True)
        if reason is not None
    ]
    for entry in report:
        examples = (line for line in rejected if line["step"] == entry["step"])
        entry["examples"] = list(itertools.islice(examples, _EXAMPLES))
    keep = [reason is None for reason in refusal]
    summary = {"rows_in": len(keep), "rows_kept": sum(keep), "rows_refused": len(rejected), "steps": report}
    return keep, pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA), summary
