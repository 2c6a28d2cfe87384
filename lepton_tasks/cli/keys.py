"""`lepton key`: API keys of the inference server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

key = typer.Typer(no_args_is_help=True, help="Manage API keys of the inference server.")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]


@key.command(epilog="Example: `lepton key add shop --models 'digits*' --rate 50 --expires 90d`")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Owner of the key: a-z, 0-9, - and _.")],
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="PATTERN", help="Models the key is valid for (default: all). Repeatable."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second (default: unlimited).")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests allowed at once (default: those of 1 s).")] = None,
    expires: Annotated[str | None, typer.Option(help="30m, 12h, 90d, or a date (default: never).")] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it once. Earlier keys of the same name stay valid until revoked."""
    import time

    from lepton_tasks.serving.access.keys import add_key, expiry

    now = time.time()
    until = expiry(expires, now=now) if expires else None
    secret, entry = add_key(_file(), name, now=now, models=models or ["*"], rate=rate, burst=burst, expires=until)
    if as_json:
        _print({"key": secret, **_row(entry)})
        return
    typer.echo(secret)
    typer.echo(f"This is {entry.id}; only its hash is stored. Running servers accept it within 1 s.", err=True)


@key.command("list", epilog="Example: `lepton key list`")
def list_(as_json: Json = False) -> None:
    """List keys with their models, rate and expiry. The keys themselves are not stored."""
    from lepton_tasks.serving.access.keys import read_keys

    try:
        rows = [_row(entry) for entry in read_keys(_file())]
        none = "all keys are revoked: only the stages have access"
    except FileNotFoundError:
        rows, none = [], "no keys: every client on this machine has access"
    if as_json:
        _print({"keys": rows})
        return
    for row in rows:
        rate = f"{row['rate']:g}/s" if row["rate"] else "no limit"
        typer.echo(f"{row['id']:<32}{','.join(row['models']):<24}{rate:<12}{row['expires'] or 'does not expire'}")
    if not rows:
        typer.echo(none)


@key.command(epilog="Example: `lepton key revoke shop --old`")
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME", help="Name, or id as shown by `lepton key list`.")],
    old: Annotated[bool, typer.Option("--old", help="Keep the newest key of this name.")] = False,
    as_json: Json = False,
) -> None:
    """Revoke keys; running servers refuse them within a second."""
    from lepton_tasks.serving.access.keys import revoke_keys

    revoked = [entry.id for entry in revoke_keys(_file(), which, old=old)]
    if as_json:
        _print({"revoked": revoked})
    else:
        typer.echo(f"revoked: {', '.join(revoked) or 'none, there is only one'}")


def _file() -> Any:
    from lepton_tasks.core.environment import state_root
    from lepton_tasks.serving.access.keys import KEYS_FILE

    return state_root() / "serving" / KEYS_FILE


def _row(entry: Any) -> dict[str, Any]:
    import datetime as dt

    until = entry.expires
    return {
        "id": entry.id,
        "name": entry.name,
        "models": list(entry.models),
        "rate": entry.rate,
        "burst": entry.burst_size if entry.rate else None,
        "expires": dt.datetime.fromtimestamp(until, dt.UTC).isoformat(timespec="seconds") if until else None,
    }


def _print(value: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(value))
