"""Fit cleaning steps, then features, on the training split of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_tasks.core.artifacts import DatasetRef, Fact, PreprocessorRef
from lepton_tasks.core.catalogue import TABLE_FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.table_protocols import FittedStep, RowFeatures
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.tables.artifact import open_splits
from lepton_tasks.data.tables.changes import changes_by
from lepton_tasks.data.tables.labels import classes_of
from lepton_tasks.data.tables.marks import change_by
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.order import steps_of
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.statistics import summarise

SCHEMA_VERSION = 1


def fit_table(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> PreprocessorRef:
    """Write the extractor, what it and the fitted steps learned on the training split, and the classes, as JSON.

    Beside them ``report.json``: how many values of the training rows the fitted steps fill, clip, mark or refuse, with
    examples.
    """
    rows = open_splits(ctx, splits)["train"]
    spec, label = use_case.features, use_case.data.label
    extractor: Any = TABLE_FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    steps: list[dict[str, Any]] = []
    report: list[dict[str, Any]] = []
    operations: list[Operation] = []
    fitted_steps = [named for named in steps_of(use_case) if named.kind == "fitted"]
    rows = _with_summaries(rows, [named.step for named in fitted_steps], extractor, label, ctx)
    for index, named in enumerate(fitted_steps):
        fitted = named.step.fit(rows, ctx)
        report.append(changes_by(named, fitted, rows, ctx))
        steps.append({**named.spec.model_dump(), "code": named.code, "fitted": fitted})
        operations += named.step.operations(fitted)
        rows = _changed(rows, named.step, fitted)
        if rows.known is None:
            rows = _with_summaries(rows, [later.step for later in fitted_steps[index + 1 :]], extractor, label, ctx)
    extractor.check(rows.schema, label)
    labels = classes_of(rows, label, ctx)
    if isinstance(extractor, RowFeatures):
        learned = extractor.fit_rows(rows, ctx, label=label, operations=operations)
    else:
        learned = extractor.fit(rows, ctx)
    preprocessor = {
        "schema_version": SCHEMA_VERSION,
        "extractor": spec.model_dump(),
        "steps": steps,
        "fitted": learned,
        "labels": labels,
    }
    draft = ctx.draft()
    write_json(draft.path / "preprocessor.json", preprocessor)
    write_json(draft.path / "report.json", {"rows": rows.height, "steps": report})
    facts: dict[str, Fact] = {"classes": len(labels), "rows": rows.height}
    for what in ("filled", "outside"):
        facts[what] = sum(change[what] for entry in report for change in entry["columns"])
    return ctx.publish(draft, PreprocessorRef, facts)


def _with_summaries(
    rows: TableRows, steps: Sequence[FittedStep], extractor: Any, label: str | None, ctx: RunContext
) -> TableRows:
    """The rows with what one pass tells of all columns that the steps and the extractor will look at."""
    schema = rows.schema
    looks = [step.looks_at() for step in steps]
    if isinstance(extractor, RowFeatures):
        looks.append(extractor.looks_at(schema, label))
    if label in schema:
        looks.append(([label], ()) if schema[label].is_float() else ((), [label]))
    wanted = [[name for name in schema if any(name in look[kind] for look in looks)] for kind in (0, 1)]
    return rows.knowing(summarise(rows, ctx, numbers=wanted[0], categories=wanted[1]))


def _changed(rows: TableRows, step: FittedStep, fitted: Mapping[str, Any]) -> TableRows:
    """The rows after a step; what is known of them stays known unless it refuses some."""
    known = None if step.refuse(fitted) is not None or rows.known is None else rows.known.after(step.operations(fitted))
    return rows.changed(change_by(step, fitted)).knowing(known)
