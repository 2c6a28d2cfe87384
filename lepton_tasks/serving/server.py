"""One serving process: ``python -m lepton_tasks.serving --port 8100 --home FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.app import DRAIN_SECONDS, create_app
from lepton_tasks.serving.lane import Lane

VALUES_VARIABLE = "LEPTON_REQUEST_VALUES"


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then answer what was accepted, write the request log, and return 0."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8100, help="port to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, help="port to listen on for gRPC, too (default: none)")
    parser.add_argument("--home", type=Path, required=True, help="folder of packages, request log and admin token")
    parser.add_argument("--workers", type=int, help="inference threads of each model (default: cores - 1)")
    parser.add_argument(
        "--values",
        choices=("on", "off"),
        default=os.environ.get(VALUES_VARIABLE, "on"),
        help=f"whether the request log keeps the column values of rows (default: {VALUES_VARIABLE}, or on)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    # uvicorn hands SIGTERM on once it has drained; a server that was asked to stop and did has not failed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    try:
        with _only_server_of(home):
            grpc = f"{options.host}:{options.grpc_port}" if options.grpc_port else None
            app = create_app(home, workers=options.workers, values=options.values == "on", grpc=grpc)
            uvicorn.run(
                app,
                host=options.host,
                port=options.port,
                loop="uvloop",
                http=Lane(app.state.answerer).protocol,  # type: ignore[arg-type]  # it is called like a class
                ws="none",
                access_log=False,
                log_config=None,
                timeout_keep_alive=75,  # above the idle time of common clients and proxies, so they close first
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
    except ConfigError as error:
        logging.getLogger("lepton.serving").error("%s", error)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


@contextlib.contextmanager
def _only_server_of(home: Path) -> Iterator[None]:
    """Hold the folder; two servers would overwrite each other's state."""
    with (home / "server.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another server uses this folder.", where=str(home), fix="Stop it, or give another --home."
            ) from error
        yield
