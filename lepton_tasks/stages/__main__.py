"""`python -m lepton_tasks.stages STAGE ...`: run one stage in its own process, as Airflow and pods do."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

from lepton_tasks.core.artifacts import parse_ref
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.settings import parse_override
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.runner import StageResult, run_stage


def main(arguments: list[str] | None = None) -> int:
    """Run a stage; writes its result to ``--result``. Returns 0, or 1 if the stage failed."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.stages", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--use-case", type=Path, required=True, metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--refs", type=Path, required=True, help="JSON file: references by name")
    parser.add_argument("--result", type=Path, required=True, help="JSON file to write the result to")
    parser.add_argument("--force", action="store_true", help="run even if nothing changed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    # These libraries log every request or font lookup, which would bury the stage's own messages.
    for noisy in ("httpx", "httpcore", "matplotlib", "great_expectations", "alembic", "PIL", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        refs = {name: parse_ref(value) for name, value in json.loads(options.refs.read_text()).items()}
        use_case = load_use_case(options.use_case, dict(parse_override(text) for text in options.overrides))
        ctx = dataclasses.replace(RunContext.from_env(options.run_id), force=options.force)
        result = run_stage(options.stage, use_case, ctx, refs)
    except LeptonError as error:
        logging.getLogger(f"lepton.{options.stage}").error("%s", error, exc_info=error.__cause__)
        write_json(options.result, StageResult(options.stage, "failed", 0.0, error=error).to_dict())
        return 1
    write_json(options.result, result.to_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main())
