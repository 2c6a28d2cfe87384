"""Stage transform: every split as arrays that training maps into memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lepton_tasks.core.artifacts import DatasetRef, Fact, PreprocessorRef
from lepton_tasks.core.catalogue import FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


def transform(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef, preprocessor: PreprocessorRef) -> DatasetRef:
    """Write ``inputs.npy``, ``targets.npy`` (int64 [rows], index into the labels) and ``ids.parquet`` per split."""
    import pyarrow.parquet as pq

    from lepton_tasks.data.split import SPLITS

    fitted = json.loads((ctx.open(preprocessor) / "preprocessor.json").read_text())
    spec, labels = use_case.features, fitted["labels"]
    extractor = FEATURES.build(spec.name, spec.params, where=f"{use_case.name}.yaml: features")
    table = ctx.open(splits) / "rows.parquet"
    draft = ctx.draft()
    facts: dict[str, Fact] = {"classes": len(labels), "bytes": 0}
    for name in SPLITS:
        rows = pq.read_table(table, filters=[("split", "==", name)])
        folder = draft.path / name
        folder.mkdir()
        written = extractor.transform(rows, fitted["fitted"], folder, ctx)
        _write_targets(rows, labels, folder)
        facts[f"{name}_rows"] = written["rows"]
        facts["bytes"] += written["bytes"]
    write_json(draft.path / "dataset.json", {"labels": labels, "rows": {n: facts[f"{n}_rows"] for n in SPLITS}})
    return ctx.publish(draft, DatasetRef, facts)


def _write_targets(rows: pa.Table, labels: list[str], folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    index = {label: i for i, label in enumerate(labels)}
    targets = np.array([index[label] for label in rows["label"].to_pylist()], dtype=np.int64)
    np.save(folder / "targets.npy", targets)
    pq.write_table(rows.select(["sample_id", "uri", "label"]), folder / "ids.parquet")
