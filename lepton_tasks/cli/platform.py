"""`lepton up`, `down` and `status`: local services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from lepton_tasks.core.environment import load_environment, state_root
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.deployment import embedded


def start(services: Sequence[str], console: Console) -> dict[str, str]:
    """Start the services that are not running; returns the addresses.

    Services with the address of another machine are skipped.
    """
    addresses = begin(services, console)()
    if password := addresses.get("airflow_password"):
        console.print(
            f"  Airflow's password for the user [bold]admin[/] (shown once): [bold]{password}[/]\n"
            f"  It is stored in {state_root() / 'airflow' / 'passwords.json'}, readable by you only.",
            highlight=False,
            soft_wrap=True,
        )
    return addresses


def begin(services: Sequence[str], console: Console) -> Callable[[], dict[str, str]]:
    """Like `start`, without waiting for the services; returns a function that waits."""
    environment = load_environment()
    remote = {s for s, field in embedded.ADDRESSES.items() if not embedded.is_local(getattr(environment, field))}
    local = [service for service in services if service not in remote]

    def on_event(service: str, state: str, seconds: float) -> None:
        if state == "ready":
            console.print(f"  {service:<22}ready after {seconds:4.1f} s", highlight=False)

    return embedded.begin(state_root(), services=local, on_event=on_event)


def stop() -> list[str]:
    """Stop the services of this state folder; returns their names."""
    return embedded.down(state_root())


def platform_status() -> dict[str, Any]:
    """Services, deployed models with their latest check, and addresses, as plain values."""
    from lepton_tasks.cli.watch import check_line
    from lepton_tasks.core.access import own_key
    from lepton_tasks.serving.client import Client

    environment = load_environment()
    services = [{"name": name, **about} for name, about in sorted(embedded.status(state_root()).items())]
    try:
        with Client(environment.serving_url, api_key=own_key(state_root() / "serving")) as client:
            models = [{**model, "checked": check_line(state_root(), model["name"])} for model in client.models()]
    except UnavailableError:
        models = []
    addresses = {name: getattr(environment, field) for name, field in embedded.ADDRESSES.items()}
    return {"addresses": addresses, "services": services, "models": models}
