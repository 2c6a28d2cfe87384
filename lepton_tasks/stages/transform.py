"""Stage transform: write each split as memory-mapped arrays."""

from __future__ import annotations

from lepton_tasks.core.artifacts import DatasetRef, Fact, PreprocessorRef
from lepton_tasks.core.catalogue import FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase


def transform(
    use_case: UseCase, ctx: RunContext, *, cleaned: DatasetRef, splits: DatasetRef, preprocessor: PreprocessorRef
) -> DatasetRef:
    """Write the features of each split: ``inputs.npy``, ``targets.npy`` (int64 [rows] or -1) and ``ids.parquet``."""
    if takes_tables(use_case):
        from lepton_tasks.data.tables.transform import transform_table

        return transform_table(use_case, ctx, splits=splits, preprocessor=preprocessor)
    import pyarrow.parquet as pq

    from lepton_tasks.data.samples import ARRAYS, Samples, write_ids
    from lepton_tasks.data.split import SPLITS

    fitted = ctx.read_json(preprocessor, "preprocessor.json")
    spec, labels = use_case.features, fitted["labels"]
    extractor = FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    table, arrays = ctx.open(splits) / "rows.parquet", ctx.open(cleaned) / ARRAYS
    draft = ctx.draft()
    facts: dict[str, Fact] = {"classes": len(labels), "bytes": 0}
    for name in SPLITS:
        rows = pq.read_table(table, filters=[("split", "==", name)])
        folder = draft.path / name
        folder.mkdir()
        written = extractor.transform(Samples(rows, arrays), fitted["fitted"], folder, ctx)
        write_ids(rows, labels, folder)
        facts[f"{name}_rows"] = written["rows"]
        facts["bytes"] += written["bytes"]
    write_json(draft.path / "dataset.json", {"labels": labels, "rows": {n: facts[f"{n}_rows"] for n in SPLITS}})
    return ctx.publish(draft, DatasetRef, facts)
