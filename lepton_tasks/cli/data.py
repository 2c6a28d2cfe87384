"""`lepton data`: profile a data set, compare two of them, and find the Data Docs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

data = typer.Typer(no_args_is_help=True, help="Inspect data: profiles, differences, Data Docs.")

_KINDS = "Use case (NAME, or NAME~1 for the previous run), file, folder, or profile in JSON."
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


@data.command(epilog="Example: `lepton data profile adult` or `lepton data profile rows.parquet`")
def profile(what: Annotated[str, typer.Argument(metavar="DATA", help=_KINDS)], as_json: Json = False) -> None:
    """Show column statistics; for a use case, those of its training split."""
    from lepton_tasks.cli.profiles import load_profile, profile_table

    found = load_profile(what)
    _show(found, as_json, lambda: profile_table(found))


@data.command(epilog="Example: `lepton data diff adult~1 adult`")
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_KINDS)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The data to compare with OLD, in the same form.")],
    as_json: Json = False,
) -> None:
    """Compare two data sets: columns, types, row counts, and the drift of each column."""
    from lepton_tasks.cli.profiles import diff_tables, load_profile
    from lepton_tasks.quality.diff import diff_profiles

    found = diff_profiles(load_profile(old), load_profile(new))
    _show(found, as_json, lambda: diff_tables(found))


@data.command(epilog="Example: `lepton data docs adult --open`")
def docs(
    name: Annotated[str, typer.Argument(metavar="USE_CASE", help="Use case name.")],
    open_: Annotated[bool, typer.Option("--open", help="Open the latest page in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """Print the paths of the latest Data Docs of each check, newest last."""
    from lepton_tasks.cli.profiles import latest_docs

    found = latest_docs(name)
    _show({"docs": found}, as_json, lambda: [f"{page['stage']}: {page['page']}" for page in found])
    if open_:
        typer.launch(found[-1]["page"])


def _show(found: dict[str, Any], as_json: bool, render: Any) -> None:
    """Print JSON, or the renderables of `render` for people."""
    import json

    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # not a terminal: do not truncate
    for renderable in render():
        console.print(renderable, highlight=False)
