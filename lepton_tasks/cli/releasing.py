"""Release commands: `lepton deploy`, `promote`, `rollback`, `ab` and `feedback`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_tasks.core.errors import ConfigError

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Model (use case) name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands in `app`."""
    app.command(epilog="Example: `lepton deploy mnist_digits 7 --canary 1,10,50,100`")(deploy)
    app.command(epilog="Example: `lepton promote mnist_digits`")(promote)
    app.command(epilog="Example: `lepton rollback mnist_digits`")(rollback)
    app.command(epilog="Example: `lepton ab mnist_digits --hours 24`")(ab)
    app.command(epilog="Example: `lepton feedback mnist_digits 5f0c6e0a9b1d-2a 7`")(feedback)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on the last line of standard output."""
    typer.echo(json.dumps(value, default=str))


def deploy(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version in the model registry.")],
    canary: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Canary: percent of requests per step, e.g. 1,10,50,100.")
    ] = None,
    shadow: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Shadow: percent of requests to mirror.")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Load it only for requests that name this version.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Rollout setting, e.g. min_requests=50. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Deploy a registered version: immediately, as a canary, or as a shadow."""
    from lepton_tasks.cli import release

    served = release.deploy_version(name, version, release.rollout_of(canary, shadow, hold, overrides or []))
    _print_state(served, as_json)


def promote(name: Name, as_json: Json = False) -> None:
    """Make the challenger the champion; moves the registry aliases."""
    from lepton_tasks.cli import release

    _print_state(release.promote_challenger(name), as_json)


def rollback(name: Name, as_json: Json = False) -> None:
    """Remove the challenger or, without one, return to the previous version; moves the registry aliases."""
    from lepton_tasks.cli import release

    _print_state(release.roll_back(name), as_json)


def ab(
    name: Name,
    hours: Annotated[float, typer.Option(help="Length of the period, until now.", min=0.01)] = 24.0,
    truths: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Additional true labels: columns id (or trace), label."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare versions on logged requests: errors, latency, answers and, where labels are known, accuracy."""
    from lepton_tasks.cli import release

    found = release.comparison(name, hours=hours, truths=truths)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(release.comparison_lines(found)))


def feedback(
    name: Name,
    answer: Annotated[str | None, typer.Argument(metavar="ID", help="The `id` of the answer.")] = None,
    label: Annotated[str | None, typer.Argument(help="The true label or number.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="CSV", help="File with columns id, label.")] = None,
) -> None:
    """Report true labels to the server, for `lepton ab`."""
    from lepton_tasks.cli import release

    if (file is None) == (answer is None or label is None):
        raise ConfigError("give either ID and LABEL, or --file.", fix="See `lepton feedback --help`.")
    outcomes = release.read_truths(file) if file else {str(answer): str(label)}
    typer.echo(f"{release.send_feedback(name, outcomes):,} labels recorded")


def _print_state(served: dict[str, Any], as_json: bool) -> None:
    from lepton_tasks.cli import release

    if as_json:
        print_json(served)
    else:
        typer.echo(f"{served['name']}: {release.state_line(served)}")
