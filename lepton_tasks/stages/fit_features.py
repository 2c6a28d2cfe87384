"""Stage fit_features: fit the feature extractor on the training split."""

from __future__ import annotations

from lepton_tasks.core.artifacts import DatasetRef, PreprocessorRef
from lepton_tasks.core.catalogue import FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase

SCHEMA_VERSION = 1


def fit_features(use_case: UseCase, ctx: RunContext, *, cleaned: DatasetRef, splits: DatasetRef) -> PreprocessorRef:
    """Fit the feature extractor on the training split; write its values and the class names as JSON."""
    if takes_tables(use_case):
        from lepton_tasks.data.tables.fit import fit_table

        return fit_table(use_case, ctx, splits=splits)
    import pyarrow.parquet as pq

    from lepton_tasks.data.samples import ARRAYS, Samples, class_names

    spec = use_case.features
    extractor = FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    rows = pq.read_table(ctx.open(splits) / "rows.parquet", filters=[("split", "==", "train")])
    labels = class_names(rows)
    draft = ctx.draft()
    preprocessor = {
        "schema_version": SCHEMA_VERSION,
        "extractor": spec.model_dump(),
        "fitted": extractor.fit(Samples(rows, ctx.open(cleaned) / ARRAYS), ctx),
        "labels": labels,
    }
    write_json(draft.path / "preprocessor.json", preprocessor)
    return ctx.publish(draft, PreprocessorRef, {"classes": len(labels), "rows": rows.num_rows})
