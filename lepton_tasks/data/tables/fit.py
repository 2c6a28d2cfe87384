"""What is learned from the training split of a table: values for its cleaning steps, then the features."""

from __future__ import annotations

from typing import Any

from lepton_tasks.core.artifacts import DatasetRef, PreprocessorRef
from lepton_tasks.core.catalogue import TABLE_FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.table_protocols import RowFeatures
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.tables.artifact import open_splits
from lepton_tasks.data.tables.labels import classes_of
from lepton_tasks.data.tables.marks import change_by
from lepton_tasks.data.tables.operations import Operation
from lepton_tasks.data.tables.order import steps_of

SCHEMA_VERSION = 1


def fit_table(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> PreprocessorRef:
    """Write the extractor, what it and the fitted steps learned on the training split, and the classes, as JSON."""
    rows = open_splits(ctx, splits)["train"]
    spec, label = use_case.features, use_case.data.label
    extractor: Any = TABLE_FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    steps: list[dict[str, Any]] = []
    operations: list[Operation] = []
    for named in steps_of(use_case):
        if named.kind == "fitted":
            fitted = named.step.fit(rows, ctx)
            steps.append({**named.spec.model_dump(), "code": named.code, "fitted": fitted})
            operations += named.step.operations(fitted)
            rows = rows.changed(change_by(named.step, fitted))
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
    return ctx.publish(draft, PreprocessorRef, {"classes": len(labels), "rows": rows.height})
