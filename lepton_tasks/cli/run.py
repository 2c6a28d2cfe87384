"""`lepton run` and `lepton stage`: the stages in this process, with a display."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

from rich.console import Console

from lepton_tasks.cli.display import RunDisplay, summary
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import load_use_case, parse_override
from lepton_tasks.stages.pipeline import STAGES, stage_named
from lepton_tasks.stages.runner import run_pipeline

_NEED_SERVICES = "train"  # the first stage that talks to MLflow


def run_use_case(
    file: Path,
    overrides: list[str],
    *,
    until: str | None,
    force: bool,
    console: Console,
    force_last: bool = False,
) -> dict[str, Any]:
    """Run a use case and show it; returns the summary that ``--json`` prints.

    Args:
        file: The YAML.
        overrides: ``KEY=VALUE`` texts.
        until: Last stage to run; None runs all.
        force: Run every stage even if nothing changed.
        force_last: Run the stage `until` even if nothing changed.
        console: Where progress is shown.
    """
    use_case = load_use_case(file, dict(parse_override(text) for text in overrides))
    names = [stage.name for stage in STAGES]
    last = names.index(stage_named(until).name) if until else len(names) - 1
    if last >= names.index(_NEED_SERVICES):
        from lepton_tasks.cli.platform import start

        start(("mlflow", "serving") if last >= names.index("deploy") else ("mlflow",), console)
    run_id = f"{use_case.name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"
    with RunDisplay(console, f"{use_case.name}  {run_id}") as display:
        ctx = dataclasses.replace(RunContext.from_env(run_id), on_progress=display.progressed, force=force)
        result = run_pipeline(
            use_case,
            ctx,
            until=until,
            force_stage=until if force_last else None,
            on_start=display.started,
            on_end=display.ended,
        )
    stages = {
        r.stage: {"state": r.state, "seconds": round(r.seconds, 3), "cached": r.cached}
        | ({"error": r.error.to_dict()} if r.error else {})
        for r in result.stages
    }
    return summary(run_id, stages, result.refs)
