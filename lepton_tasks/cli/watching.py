"""Commands about a deployed model between runs: `lepton monitor` and `repair`."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton_tasks.cli.releasing import Json, Name, print_json


def add_to(app: typer.Typer) -> None:
    """Register the commands in `app`."""
    app.command(epilog="Example: `lepton monitor mnist_digits`")(monitor)
    app.command(epilog="Example: `lepton repair mnist_digits --dry-run`")(repair)


def monitor(name: Name, as_json: Json = False) -> None:
    """Run the monitors of a deployed model, show the findings, and send alerts.

    Exit code 1 if a finding is critical.
    """
    from lepton_tasks.cli import watch

    found = watch.monitor(name)
    if as_json:
        print_json(found)
    else:
        watch.show(found)
    if not found["ok"]:
        raise typer.Exit(1)


def repair(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, and why.")] = False,
    as_json: Json = False,
) -> None:
    """Apply the remedies to the latest findings: roll back, or retrain.

    Findings are those of `lepton monitor`, or of Airflow's last check.
    """
    from rich.console import Console

    from lepton_tasks.cli import watch

    found = watch.repair(name, dry_run=dry_run, console=Console(stderr=as_json))
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(found["told"]))
    if not found["ok"]:
        raise typer.Exit(1)
