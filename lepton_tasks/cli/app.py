"""The `lepton` commands: each parses its arguments and calls one function of this package.

Exit codes: 0 success, 1 failure, 2 invalid command or file.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lepton_tasks.cli import releasing, watching
from lepton_tasks.cli.data import data
from lepton_tasks.cli.keys import key
from lepton_tasks.cli.packages import package
from lepton_tasks.cli.releasing import Json, print_json
from lepton_tasks.core.environment import usable_state
from lepton_tasks.core.errors import ConfigError, LeptonError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Lepton turns one YAML file, a *use case*, into a deployed and monitored model.",
    epilog="Start with `lepton list`, then `lepton run configs/use_cases/mnist_digits.yaml`.",
)

app.add_typer(data, name="data")
app.add_typer(key, name="key")
app.add_typer(package, name="package")

File = Annotated[Path, typer.Argument(metavar="FILE", help="Use case file, e.g. configs/use_cases/mnist_digits.yaml.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. train.epochs=3. Repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Run all stages, even unchanged ones.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of the stages.")]


@app.command(epilog="Example: `lepton validate configs/use_cases/*.yaml`")
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Use case files to check.")],
    as_json: Json = False,
) -> None:
    """Validate use case files: keys, types, component names and parameters."""
    from lepton_tasks.core.components import check_params_of
    from lepton_tasks.core.use_case_file import load_use_case

    faults: dict[str, str] = {}
    for file in files:
        try:
            check_params_of(load_use_case(file), where=file.name)
            if not as_json:
                typer.echo(f"{file}: ok")
        except LeptonError as error:
            faults[str(file)] = str(error)
            typer.echo(str(error), err=True)
    if as_json:
        print_json({"ok": not faults, "checked": len(files), "faults": faults})
    if faults:
        raise typer.Exit(1)


@app.command("list", epilog="Example: `lepton list models`")
def list_(
    what: Annotated[
        str, typer.Argument(help="use_cases, stages, or a kind of component: models, sources, ...")
    ] = "use_cases",
    as_json: Json = False,
) -> None:
    """List use cases, stages, or available components such as models and sources."""
    from lepton_tasks.cli.listing import listing

    rows = listing(what)
    if as_json:
        print_json({what: rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['about']}")
        params = [name if value is None else f"{name}: {value}" for name, value in row.get("params", {}).items()]
        if params:
            typer.echo(f"{'':<{width}}  {', '.join(params)}")


@app.command(epilog="Example: `lepton run configs/use_cases/mnist_digits.yaml --set train.epochs=3`")
def run(
    file: File,
    overrides: Set = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    force: Force = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run all stages of a use case without Airflow. Starts MLflow and serving if they are not running."""
    from lepton_tasks.cli.run import run_use_case

    _logging(verbose)
    _end(run_use_case(file, overrides or [], until=until, force=force, console=_console(as_json)), as_json)


@app.command(epilog="Example: `lepton stage evaluate configs/use_cases/mnist_digits.yaml --force`")
def stage(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="Stage name; see `lepton list stages`.")],
    file: File,
    overrides: Set = None,
    force: Annotated[bool, typer.Option("--force", help="Run this stage even if it is unchanged.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run one stage, preceded by any stages it depends on that are out of date."""
    from lepton_tasks.cli.run import run_use_case

    _logging(verbose)
    console = _console(as_json)
    _end(run_use_case(file, overrides or [], until=name, force=False, force_last=force, console=console), as_json)


@app.command(
    epilog="Example: `lepton predict mnist_digits seven.png` or, for many files, "
    "`lepton predict mnist_digits --input pictures/ --output answers.parquet`"
)
def predict(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model (use case) name, or a package folder with --input.")
    ],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Files to send to the endpoint, one prediction each.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="FILES", help="Folder, file or glob pattern: images, CSV, Parquet, JSON lines, text."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.parquet", help="Output file for --input.")] = None,
    version: Annotated[str | None, typer.Option(help="With --input: version in the model registry.")] = None,
    alias: Annotated[str | None, typer.Option(help="With --input: registry alias (default: champion).")] = None,
    as_json: Json = False,
) -> None:
    """Predict with the deployed model, or score whole files without a server (--input)."""
    from lepton_tasks.cli import predict

    if input_ is None:
        if not files or output or version or alias:
            raise ConfigError("FILE is missing, or an option requires --input.", fix="See `lepton predict --help`.")
        predict.predict_files(name, files, as_json=as_json)
        return
    if files or output is None:
        raise ConfigError("--input requires --output and no FILE.", fix="See `lepton predict --help`.")
    found = predict.score_files(name, input_, output, version=version, alias=alias, console=_console(as_json))
    if as_json:
        print_json(found)
    if not found["answered"]:
        raise typer.Exit(1)


releasing.add_to(app)
watching.add_to(app)


@app.command(epilog="Example: `lepton status --json`")
def status(as_json: Json = False) -> None:
    """Show services with their addresses, the versions each model serves, and what monitors found."""
    from lepton_tasks.cli.platform import platform_status
    from lepton_tasks.cli.release import state_line

    found = platform_status()
    if as_json:
        print_json(found)
        return
    for service in found["services"]:
        typer.echo(f"{service['name']:<24}{service['state']:<10}{service.get('url', '')}")
    for model in found["models"]:
        typer.echo(f"{model['name']:<24}{state_line(model)}")
        if model["checked"]:
            typer.echo(f"{'':<24}{model['checked']}")


@app.command(epilog="Example: `lepton requests mnist_digits --output requests.parquet`")
def requests(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Model (use case) name.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    hours: Annotated[float, typer.Option(help="Length of the period, until now.", min=0.01)] = 24.0,
) -> None:
    """Export the request log of a model to one Parquet file."""
    from lepton_tasks.cli.release import gather_logs
    from lepton_tasks.cli.requests import export_requests

    gather_logs(name)
    typer.echo(f"{export_requests(name, output, hours=hours):,} rows in {output}")


@app.command(
    epilog="Example: `lepton serve --port 8100 --processes 4 --grpc-port 8101` or `lepton serve path/to/package`",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8100,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Run the inference server in the foreground, for all deployed models or (`lepton serve PACKAGE`) for one.

    PACKAGE is a package folder or a registered model. Further options: `python -m lepton_tasks.serving --help`.
    """
    from lepton_tasks.cli import serve

    if not context.args or context.args[0].startswith("-"):
        serve.serve_state(context.args, host=host, port=port)
    model, *options = context.args
    raise typer.Exit(serve.serve_package(model, options, host=host, port=port, console=_console(True)))


@app.command(epilog="Example: `lepton up mlflow serving`")
def up(
    services: Annotated[
        list[str] | None, typer.Argument(metavar="SERVICE...", help="mlflow, serving, airflow (default: all).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start local services on 127.0.0.1, unless they are already running."""
    from lepton_tasks.cli.platform import start
    from lepton_tasks.deployment.embedded import SERVICES

    addresses = start(services or SERVICES, _console(as_json))
    if as_json:
        print_json(addresses)


@app.command(epilog="Example: `lepton down`")
def down(as_json: Json = False) -> None:
    """Stop the services that `lepton up` started. Stored data are kept."""
    from lepton_tasks.cli.platform import stop

    stopped = stop()
    if as_json:
        print_json({"stopped": stopped})
    else:
        typer.echo(f"stopped: {', '.join(stopped) or 'nothing was running'}")


@app.command(epilog="Example: `lepton demo`")
def demo(
    name: Annotated[str, typer.Argument(help="Use case to run through Airflow.")] = "mnist_digits",
) -> None:
    """Start all services, run a use case through Airflow, and make a prediction."""
    from lepton_tasks.cli.demo import run_demo

    raise typer.Exit(run_demo(name, _console(False)))


def main() -> None:
    """Entry point of the `lepton` command."""
    as_json = "--json" in sys.argv
    try:
        with usable_state():
            app()
    except LeptonError as error:
        Console(stderr=True).print(f"[bold red]lepton:[/] {error}", highlight=False, soft_wrap=True)
        if as_json:
            print_json({"ok": False, "error": error.to_dict()})
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _end(result: dict[str, Any], as_json: bool) -> None:
    """Print the summary of a run as JSON if requested; exit with 1 if the run failed."""
    if as_json:
        print_json(result)
    if not result["ok"]:
        raise typer.Exit(1)


def _console(as_json: bool) -> Console:
    return Console(stderr=as_json)


def _logging(verbose: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lepton").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("lepton.dask").setLevel(logging.INFO)  # the dashboard's address is part of a run's progress
