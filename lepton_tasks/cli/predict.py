"""`lepton predict`: send files to the endpoint, or score files without a server."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lepton_tasks.core.context import Progress, RunContext
from lepton_tasks.core.errors import ConfigError

_MANY_ROWS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")


def predict_files(name: str, files: Sequence[Path], *, as_json: bool) -> None:
    """Send each file to the deployed model and print the answers."""
    from lepton_tasks.cli.display import answer_line
    from lepton_tasks.core.access import own_key
    from lepton_tasks.core.environment import load_environment, state_root
    from lepton_tasks.serving.client import Client

    answers = []
    with Client(load_environment().serving_url, api_key=own_key(state_root() / "serving")) as client:
        for file in files:
            if not file.is_file():
                raise ConfigError("no such file.", where=str(file))
            if file.suffix.lower() in _MANY_ROWS:
                fix = f"Score it: lepton predict {name} --input {file} --output {file.stem}-answers.parquet"
                raise ConfigError("a file of many rows is not sent to the server.", where=str(file), fix=fix)
            answer = client.predict(name, file.read_bytes())
            answers.append({"file": str(file), **answer})
            if not as_json:
                typer.echo(f"{file}: {answer_line(answer['predictions'][0])}  version {answer['version']}")
    if as_json:
        typer.echo(json.dumps({"answers": answers}))


def score_files(
    name: str, path: str, output: Path, *, version: str | None, alias: str | None, console: Console
) -> dict[str, Any]:
    """Score the files at `path` with a model's package, and show progress; returns the summary."""
    from lepton_tasks.scoring.package_selection import select_package
    from lepton_tasks.scoring.score import score

    if output.suffix != ".parquet":
        raise ConfigError("the output must be a Parquet file.", where=f"--output {output}", fix="Name it *.parquet.")
    run_id = f"predict-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}"
    ctx = dataclasses.replace(RunContext.from_env(run_id), stage="predict", fingerprint=run_id)
    model = select_package(name, ctx, version=version, alias=alias)
    with console.status("predict: reading") as status:

        def show(progress: Progress) -> None:
            if console.is_terminal:
                status.update(str(progress))
            else:
                console.print(str(progress), highlight=False)

        found = score(path, output, model, dataclasses.replace(ctx, on_progress=show))
    for note in found["notes"]:
        console.print(f"columns {note}", highlight=False, soft_wrap=True)
    for row in found["reasons"]:
        place = row["origin"] if row["row"] is None else f"{row['origin']} row {row['row']}"
        console.print(f"refused: {place}: {row['error']}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{found['rows']:,} rows of {found['files']:,} files: {found['answered']:,} answered by version "
        f"{found['version']}, {found['refused']:,} refused ({found['rows_per_second']:,.0f} rows/s) -> {output}",
        highlight=False,
        soft_wrap=True,
    )
    return found
