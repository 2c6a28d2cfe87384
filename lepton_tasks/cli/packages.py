"""`lepton package`: a model package in the forms that other servers take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

package = typer.Typer(no_args_is_help=True, help="Model packages: write them for other servers.")

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on the last line of standard output.")]


@package.command(epilog="Example: `lepton package export mnist_digits --format triton --output model_repository`")
def export(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A registered model, or the folder of a package.")],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model's folder is written.")],
    format_: Annotated[str, typer.Option("--format", help="See `lepton list formats`.")] = "triton",
    version: Annotated[str | None, typer.Option(help="Its number in the registry; without it, the champion.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the format. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checked package in another form, e.g. as a model repository of Triton and KServe."""
    from lepton_tasks.core.catalogue import FORMATS
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.settings import parse_override
    from lepton_tasks.scoring.choose import chosen
    from lepton_tasks.serving.package import load_package

    params = dict(parse_override(text) for text in overrides or [])
    form = FORMATS.build(format_, params, where="--format")
    found = chosen(name, RunContext.from_env("export"), version=version)
    loaded = load_package(found.folder)
    folder = form.write(loaded.folder, output)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "format": format_, "version": found.version}))
    else:
        typer.echo(str(folder))
