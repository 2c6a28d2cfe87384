"""The inference server: ``python -m lepton_tasks.serving --port 8100 --home FOLDER``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import functools
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn
from fastapi import FastAPI

from lepton_tasks.core import lifetime
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.access.auth import check_address, guard_of
from lepton_tasks.serving.app import DRAIN_SECONDS, STOP_SECONDS, create_app
from lepton_tasks.serving.http.admin import admin_token
from lepton_tasks.serving.http.connection_limit import ConnectionLimit, max_connections
from lepton_tasks.serving.http.fast_lane import FastLane
from lepton_tasks.serving.http.middleware import Cors
from lepton_tasks.serving.http.tls import certificate_of
from lepton_tasks.serving.observing import logs
from lepton_tasks.serving.observing.redact import Redaction
from lepton_tasks.serving.supervisor import Supervisor
from lepton_tasks.serving.versions.fleet import Fleet
from lepton_tasks.serving.versions.follow import Following

VALUES_VARIABLE = "LEPTON_REQUEST_VALUES"
FOLLOW_VARIABLE = "LEPTON_FOLLOW"

_DEFAULT_PROCESSES = 2  # not more: each process has its own copy of every model

_log = logging.getLogger("lepton.serving")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then finish accepted requests, write the request log, and return 0."""
    options = _parser().parse_args(arguments)
    logs.configure(options.log_format)
    options.home = options.home.resolve()
    options.home.mkdir(parents=True, exist_ok=True)
    options.start = secrets.token_hex(8)
    try:
        with _lock_folder(options.home) as lock:
            _check(options)
            if options.processes == 1:
                return _serve(options)
            serve = functools.partial(_serve_member, options, os.getpid(), lock)
            address = options.host, options.port
            return Supervisor(serve, options.processes, address, grace=options.linger + STOP_SECONDS).run()
    except ConfigError as error:
        _log.error("%s", error)
        return 1


def _check(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for invalid options before any process is started."""
    guard = guard_of(options.home, admin_token(options.home), os.environ, options.keys)
    check_address(options.host, guard, insecure=options.insecure)
    certificate_of(options.tls_cert, options.tls_key)
    Redaction(options.home)
    Cors(options.cors)
    if not 0 <= options.log_sample <= 1:
        raise ConfigError("not a fraction.", where=f"--log-sample {options.log_sample}", fix="Give 0 to 1.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8100, help="port to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, help="gRPC port (default: none)")
    parser.add_argument("--home", type=Path, required=True, help="folder of packages, request log and admin token")
    parser.add_argument(
        "--processes",
        type=_processes,
        default="auto",
        help=f"server processes on one port (default: auto: {_DEFAULT_PROCESSES} if there are as many cores)",
    )
    parser.add_argument("--workers", type=int, help="inference threads per model (default: cores - 1)")
    parser.add_argument(
        "--values",
        choices=("on", "off"),
        default=os.environ.get(VALUES_VARIABLE, "on"),
        help=f"whether the request log keeps input values (default: {VALUES_VARIABLE}, or on)",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text", help="format of log lines")
    parser.add_argument("--log-sample", type=float, default=1.0, help="share of samples to log, 0 to 1")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain; reloaded when it changes")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="private key")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="file of API keys (default: keys.json in --home)")
    parser.add_argument("--insecure", action="store_true", help="allow other machines without API keys")
    parser.add_argument(
        "--linger",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="after SIGTERM: how long to answer, not ready, while load balancers drain (default: %(default)s)",
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="allowed origin; repeatable")
    parser.add_argument(
        "--follow",
        metavar="URL",
        default=os.environ.get(FOLLOW_VARIABLE),
        help=f"MLflow server whose aliases decide what is served (default: {FOLLOW_VARIABLE}, or none)",
    )
    parser.add_argument(
        "--follow-every", type=float, default=5.0, metavar="SECONDS", help="poll interval (default: %(default)s)"
    )
    parser.add_argument(
        "--challenger",
        choices=("off", "hold", "shadow", "canary"),
        default="off",
        help="with --follow: rollout of the alias challenger (default: %(default)s)",
    )
    return parser


def _processes(text: str) -> int:
    if text == "auto":
        return min(_DEFAULT_PROCESSES, len(os.sched_getaffinity(0)))
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number of processes")
    return int(text)


def _serve_member(options: argparse.Namespace, parent: int, lock: TextIO, member: int, listener: socket.socket) -> int:
    """Run one of several processes, forked from `parent`; it exits with the parent."""
    lifetime.die_with(parent)
    lock.close()  # only the parent holds the folder lock
    return _serve(options, Fleet(options.home, member, options.processes), listener)


def _serve(options: argparse.Namespace, fleet: Fleet | None = None, listener: socket.socket | None = None) -> int:
    """Run one server process; `fleet` and `listener` are set if there are several."""
    # uvicorn raises SIGTERM again after draining; a requested stop is exit status 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    grpc = f"{options.host}:{options.grpc_port}" if options.grpc_port else None
    certificate = certificate_of(options.tls_cert, options.tls_key)
    following = None
    if options.follow:
        following = Following(options.follow, options.challenger, options.follow_every, options.start)
    app = create_app(
        options.home,
        workers=options.workers,
        values=options.values == "on",
        sample=options.log_sample,
        grpc=grpc,
        fleet=fleet,
        origins=options.cors,
        certificate=certificate,
        following=following,
        keys=options.keys,
    )
    lane = FastLane(app.state.handler, app.state.access, ConnectionLimit(max_connections()))
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=lane.protocol,  # type: ignore[arg-type]  # a factory instead of a class
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        ssl_context_factory=(lambda *_: certificate.context()) if certificate else None,
        timeout_keep_alive=75,  # above the idle timeout of common clients and proxies, so that they close first
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )

    def announce_stop() -> None:
        app.state.table.stopping = lane.stopping = True

    server = _Server(config, app, options.linger, announce_stop)
    _tune_garbage_collector()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener] if listener is not None else None)
    finally:
        if lane.unread:
            _log.warning("%d clients did not read their responses and were disconnected", lane.unread)
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """A server that lingers after SIGTERM, closing each connection after its next response.

    Load balancers notice a stop with a delay, and send requests until then.

    Args:
        config: uvicorn's configuration.
        app: The application.
        linger: Seconds from SIGTERM until the server stops listening.
        announce_stop: Called on SIGTERM.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, linger: float, announce_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._linger, self._announce_stop = app, linger, announce_stop
        self._until: float | None = None
        self._stopping: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl+C stops at once; repeated SIGTERMs, which some supervisors send, are ignored."""
        if sig != signal.SIGTERM or self._linger <= 0:
            super().handle_exit(sig, frame)
            return
        if self._until is not None:
            return
        self._captured_signals.append(sig)
        self._until = time.monotonic() + self._linger
        self._announce_stop()
        close_header = (b"connection", b"close")
        self.config.encoded_headers.append(close_header)  # uvicorn rebuilds its default headers from these every second
        self.server_state.default_headers = [*self.server_state.default_headers, close_header]

    async def on_tick(self, counter: int) -> bool:
        """Stop when the linger time is over."""
        if self._until is not None and time.monotonic() >= self._until:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain HTTP and gRPC at the same time, so that the drain timeout is not doubled."""
        if (grpc := self._app.state.grpc) is not None:
            self._stopping = asyncio.create_task(grpc.stop(DRAIN_SECONDS))  # awaited at the end of the lifespan
        await super().shutdown(sockets)


def _tune_garbage_collector() -> None:
    """Exclude existing objects from garbage collection, and collect less often.

    A full collection of the 70,000 objects of an idle server took 17 ms of CPU time, which blocks all requests, and
    under load, with records queued for the request log, it ran several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@contextlib.contextmanager
def _lock_folder(home: Path) -> Iterator[TextIO]:
    """Lock the state folder while the yielded file is open: two servers would overwrite each other's state."""
    with (home / "server.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another server uses this folder.", where=str(home), fix="Stop it, or give another --home."
            ) from error
        yield stream
