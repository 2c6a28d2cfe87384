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
from lepton_tasks.data.tables.fit_report import step_report
from lepton_tasks.data.tables.fitted_steps import training_change
from lepton_tasks.data.tables.labels import classes_of
from lepton_tasks.data.tables.named_steps import steps_of
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.statistics import summarise

SCHEMA_VERSION = 1


def fit_table(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> PreprocessorRef:
    """Write ``preprocessor.json``: the extractor, its fitted values, those of the fitted steps, and the classes.

    Also write ``report.json``: how many training values the fitted steps fill, clip or mark, with examples.
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
        report.append(step_report(named, fitted, rows, ctx))
        steps.append({**named.spec.model_dump(), "code": named.code, "fitted": fitted})
        operations += named.step.operations(fitted)
        rows = _changed(rows, named.step, fitted)
        if rows.summaries is None:
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
    medians = _filled_by_features(learned, rows, ctx)
    write_json(draft.path / "report.json", {"rows": rows.height, "steps": report, "filled_by_features": medians})
    changes = [change for entry in report for change in entry["columns"]]
    facts: dict[str, Fact] = {
        "classes": len(labels),
        "rows": rows.height,
        "filled": sum(change["filled"] for change in changes) + sum(medians.values()),
        "outside": sum(change["outside"] for change in changes),
    }
    return ctx.publish(draft, PreprocessorRef, facts)


def _filled_by_features(learned: Mapping[str, Any], rows: TableRows, ctx: RunContext) -> dict[str, int]:
    """Number of missing values per column that the features replace (by the median), without those of the steps."""
    numbers = [feature["column"] for feature in learned.get("features", ()) if feature.get("kind") == "number"]
    sketches = summarise(rows, ctx, numbers=numbers, moments=()).sketches
    return {name: count for name, sketch in sketches.items() if (count := sketch.nulls + sketch.nan)}


def _with_summaries(
    rows: TableRows, steps: Sequence[FittedStep], extractor: Any, label: str | None, ctx: RunContext
) -> TableRows:
    """The rows with the statistics that the steps and the extractor need, computed in one pass."""
    schema = rows.schema
    needed = [step.summary_columns() for step in steps]
    if isinstance(extractor, RowFeatures):
        needed.append(extractor.summary_columns(schema, label))
    if label in schema:
        needed.append(([label], ()) if schema[label].is_float() else ((), [label]))
    numbers, categories = ([name for name in schema if any(name in one[kind] for one in needed)] for kind in (0, 1))
    return rows.with_summaries(summarise(rows, ctx, numbers=numbers, categories=categories))


def _changed(rows: TableRows, step: FittedStep, fitted: Mapping[str, Any]) -> TableRows:
    """The rows after a step; their statistics are derived from the old ones unless the step rejects rows."""
    summaries = None
    if step.refuse(fitted) is None and rows.summaries is not None:
        summaries = rows.summaries.after(step.operations(fitted))
    return rows.changed(training_change(step, fitted)).with_summaries(summaries)
