"""`lepton run` and `lepton stage`: run stages in this process, with a display."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from lepton_tasks.cli.display import RunDisplay, singular, summary
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.settings import parse_override
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.pipeline import Stage, stage_named, stages_of
from lepton_tasks.stages.runner import run_pipeline

_FIRST_TRACKED = "train"  # the first stage that uses MLflow


def _start_in_background(services: Sequence[str], console: Console) -> Callable[[], object]:
    """Start services in the background; returns a function that waits until they are ready.

    Raises:
        ConfigError: a service cannot be started.
    """
    if not services:
        return lambda: None
    from lepton_tasks.cli.platform import begin

    pool = ThreadPoolExecutor(1)
    wait = pool.submit(begin(services, console)).result
    pool.shutdown(wait=False)
    return wait


def run_use_case(
    file: Path,
    overrides: list[str],
    *,
    until: str | None,
    force: bool,
    console: Console,
    force_last: bool = False,
) -> dict[str, Any]:
    """Run a use case with a display; returns the summary for ``--json``.

    Args:
        file: Path of the YAML.
        overrides: ``KEY=VALUE`` texts.
        until: Last stage to run; None runs all.
        force: Run every stage even if nothing changed.
        force_last: Run the stage `until` even if nothing changed.
        console: Console for the progress.
    """
    use_case = load_use_case(file, dict(parse_override(text) for text in overrides))
    stages = stages_of(use_case)
    names = [stage.name for stage in stages]
    if until and stage_named(until).name not in names:
        raise ConfigError(
            f"the stage {until!r} is not part of a use case that only prepares data.",
            where=file.name,
            fix="Add `task` and `model`, or choose one of " + ", ".join(names) + ".",
        )
    planned = names[: names.index(until) + 1] if until else names
    needed = [] if _FIRST_TRACKED not in planned else ["mlflow", "serving"] if "deploy" in planned else ["mlflow"]
    wait_for_services = _start_in_background(needed, console)

    def started(stage: Stage) -> None:
        if stage.group != "data":
            wait_for_services()
        display.started(stage)

    run_id = f"{use_case.name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"
    with RunDisplay(console, f"{use_case.name}  {run_id}", planned) as display:
        ctx = dataclasses.replace(RunContext.from_env(run_id), on_progress=display.progressed, force=force)
        result = run_pipeline(
            use_case,
            ctx,
            until=until,
            force_stage=until if force_last else None,
            on_start=started,
            on_end=display.ended,
        )
    for ref in result.refs.values():
        if ref.facts.get("refused") and (file := ctx.store.folder(ref) / "rejected.parquet").exists():
            console.print(
                singular(f"  {ref.facts['refused']:,} rows refused by {ref.stage}: ") + str(file),
                highlight=False,
                soft_wrap=True,
            )
    ended = {
        r.stage: {"state": r.state, "seconds": round(r.seconds, 3), "cached": r.cached}
        | ({"error": r.error.to_dict()} if r.error else {})
        for r in result.stages
    }
    return summary(run_id, ended, result.refs)
