"""`lepton serve`: serve all deployed models, or one package."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from lepton_tasks.core.environment import state_root
from lepton_tasks.core.errors import UnavailableError

_READY_SECONDS = 60.0


def serve_state(options: Sequence[str], *, host: str, port: int) -> NoReturn:
    """Replace this process by the inference server of this state folder."""
    command = _command(state_root() / "serving", host, port)
    os.execv(sys.executable, [*command, *options])


def serve_package(model: str, options: Sequence[str], *, host: str, port: int, console: Console) -> int:
    """Serve one package until this process is stopped; returns the server's exit status.

    Args:
        model: Package folder, or a registered model, whose champion is served.
        options: Further options of the server.
        host: Address to bind.
        port: Port to listen on.
        console: Console for the page's address.

    Raises:
        ArtifactError: the package cannot be used.
        ConfigError: the model does not exist, or the port is in use.
        UnavailableError: the server did not start.
    """
    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.lifetime import die_with
    from lepton_tasks.scoring.package_selection import select_package
    from lepton_tasks.serving.supervisor import bind_socket

    found = select_package(model, RunContext.from_env("serve"))
    with bind_socket((host, port)):  # another process on this port would be mistaken for the server
        pass
    with tempfile.TemporaryDirectory(prefix="lepton-serve-") as home:
        name = _deploy(Path(home), found.folder, found.version or "1")
        command = [*_command(Path(home), host, port), *options]
        ends_with_us = functools.partial(die_with, os.getpid())
        # Without LEPTON_FOLLOW, only this package is served.
        variables = {name: value for name, value in os.environ.items() if name != "LEPTON_FOLLOW"}
        process = subprocess.Popen(command, env=variables, preexec_fn=ends_with_us)  # no threads yet
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            scheme = "https" if any(option.startswith("--tls-cert") for option in options) else "http"
            url = f"{scheme}://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
            _wait_until_ready(url, process)
            console.print(f"{name} is served at [bold]{url}/docs#{name}[/]", soft_wrap=True)
            return process.wait()
        except KeyboardInterrupt:  # the server is interrupted, too, and completes pending requests
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def _command(home: Path, host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "lepton_tasks.serving", "--host", host, "--port", str(port), "--home", str(home)]


def _deploy(home: Path, folder: Path, version: str) -> str:
    """Deploy a package into the state folder `home` of a new server; returns the model's name."""
    from lepton_tasks.serving.package import load_package
    from lepton_tasks.serving.versions.releases import Releases, State

    package, releases = load_package(folder), Releases(home)
    name = package.spec.name
    release = releases.place(name, folder, version, package.digest)
    releases.write(name, State(release, unannounced=True))
    releases.record("deploy", name, release, "lepton serve")
    return name


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server is ready. Certificates are not verified, as nothing else is requested."""
    import httpx

    until = time.monotonic() + _READY_SECONDS
    with httpx.Client(base_url=url, verify=False, timeout=2, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/v2/health/ready").is_success:
                    return
            if process.poll() is not None or time.monotonic() > until:
                raise UnavailableError("the server did not start.", where=url, fix="See its output above.")
            time.sleep(0.05)
