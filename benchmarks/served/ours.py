"""Our own server: started on a folder of its own, with one model deployed over its admin API."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

from benchmarks.served.graphs import Model
from benchmarks.served.processes import Server, free_port
from lepton_tasks.core.environment import project_root

PATH = "/v2/models/{name}/infer"
_ALIVE = "/v2/health/live"


def start(home: Path, *options: str) -> Server:
    """The server on this state folder; it is not ready yet."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "lepton_tasks.serving", "--port", str(port), "--home", str(home), *options]
    return Server(command, port, home, {"PYTHONPATH": str(project_root())})


def deploy(server: Server, home: Path, model: Model) -> None:
    """Let the server answer for the model.

    Raises:
        RuntimeError: it refuses the package, or does not answer.
    """
    url = f"http://127.0.0.1:{server.port}"
    server.wait(_ALIVE)
    headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
    wanted = {"package": str(model.package), "version": "1", "digest": model.digest, "by": "benchmark"}
    reply = httpx.post(f"{url}/admin/models/{model.name}", json=wanted, headers=headers, timeout=60, trust_env=False)
    if not reply.is_success:
        raise RuntimeError(f"ours refuses {model.name}: {reply.text}")


def begin(home: Path, model: Model, *options: str) -> Server:
    """A server that was stopped after the model was deployed, and started again: as after a reboot."""
    first = start(home, *options)
    try:
        deploy(first, home, model)
    finally:
        first.stop()
    return start(home, *options)
