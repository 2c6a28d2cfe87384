"""Subject: the data stages, as `lepton run` calls them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.tables.columns import CLIPPED, NUMBERS
from lepton_tasks.core.artifacts import ArtifactRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase, parse_use_case
from lepton_tasks.stages import pipeline
from lepton_tasks.stages.runner import run_stage

STAGES = {s.name: s.produces for s in pipeline.STAGES if s.group == "data" and not s.name.startswith("validate")}


def use_case(folder: Path) -> UseCase:
    """What every subject does, as a use case."""
    return parse_use_case(
        {
            "name": "rows",
            "data": {"source": {"name": "parquet", "params": {"path": str(folder)}}},
            "clean": [
                {"name": "types", "params": {"columns": {"amount": "float"}}},
                {"name": "missing", "params": {"columns": ["f0"]}},
                {"name": "duplicates", "params": {"columns": ["id"]}},
                {"name": "outliers", "params": {"columns": CLIPPED, "method": "iqr", "action": "clip"}},
            ],
            "features": {
                "name": "table",
                "params": {
                    "ignore": ["id"],
                    "columns": dict.fromkeys([*NUMBERS, "flag"], "standard") | {"at": "cyclical"},
                },
            },
        },
        where="benchmark",
    )


def main(folder: Path, out: Path) -> None:
    """Run the stages; their times go to standard error."""
    case, ctx = use_case(folder), RunContext.local(out)
    refs: dict[str, ArtifactRef] = {}
    for stage, produces in STAGES.items():
        cpu = time.process_time()
        result = run_stage(stage, case, ctx, refs)
        assert result.ref is not None
        refs[produces] = result.ref
        print(
            f"{stage}: {result.seconds:.2f} s, {time.process_time() - cpu:.2f} CPU-s, {result.ref.facts}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
