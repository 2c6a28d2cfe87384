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

_NEED_SERVICES = "train"  # the first stage that talks to MLflow


def _starting(services: Sequence[str], console: Console) -> Callable[[], object]:
    """Start services while the stages run that do not need them; returns what waits until they answer.

    Raises:
        ConfigError: they cannot be started.
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
    stages = stages_of(use_case)
    names = [stage.name for stage in stages]
    if until and stage_named(until).name not in names:
        raise ConfigError(
            f"the stage {until!r} is not part of a use case that only prepares data.",
            where=file.name,
            fix="Add `task` and `model`, or choose one of " + ", ".join(names) + ".",
        )
    ahead = names[: names.index(until) + 1] if until else names
    needed = [] if _NEED_SERVICES not in ahead else ["mlflow", "serving"] if "deploy" in ahead else ["mlflow"]
    wait_for_services = _starting(needed, console)

    def started(stage: Stage) -> None:
        if stage.group != "data":
            wait_for_services()
        display.started(stage)

    run_id = f"{use_case.name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"
    with RunDisplay(console, f"{use_case.name}  {run_id}", ahead) as display:
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
