"""`lepton package`: export model packages for other servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

package = typer.Typer(no_args_is_help=True, help="Export model packages for other servers.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


@package.command(epilog="Example: `lepton package export mnist_digits --format triton --output model_repository`")
def export(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Registered model, or package folder.")],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")],
    format_: Annotated[str, typer.Option("--format", help="See `lepton list formats`.")] = "triton",
    version: Annotated[str | None, typer.Option(help="Version in the registry (default: the champion).")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter of the format. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a package, e.g. as a Triton or KServe model repository."""
    from lepton_tasks.core.catalogue import FORMATS
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.settings import parse_override
    from lepton_tasks.scoring.package_selection import select_package
    from lepton_tasks.serving.package import load_package

    params = dict(parse_override(text) for text in overrides or [])
    form = FORMATS.build(format_, params, where="--format")
    found = select_package(name, RunContext.from_env("export"), version=version)
    loaded = load_package(found.folder)
    folder = form.write(loaded.folder, output)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "format": format_, "version": found.version}))
    else:
        typer.echo(str(folder))
