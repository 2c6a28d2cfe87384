"""Connection to a Dask cluster: TLS, clear errors, performance reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pkgutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Dask, project_root
from lepton_tasks.core.errors import ConfigError, LeptonError, UnavailableError

_REPORTS = "dask"  # in a stage's work folder: one page per pass over the data


class LostError(Exception):
    """The scheduler and all submitted work are lost; connect again."""


@contextlib.contextmanager
def connected(ctx: RunContext) -> Iterator[Any]:
    """A `distributed.Client` of a cluster with at least one worker.

    Raises:
        UnavailableError: no cluster, or no worker, within `dask.patience`.
        ConfigError: the certificates are missing, wrong or rejected, or a host lacks the package.
        LostError: the scheduler was lost.
    """
    import dask.config
    import distributed  # noqa: F401 - loads its configuration, part of which is overridden below

    where = ctx.environment.dask
    # Chunks of images are intentionally larger than Dask's warning threshold for tasks.
    with (
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}),
        _closing(_client(where)) as client,
    ):
        try:
            found = _check_cluster(client, where)
        except LeptonError:
            raise
        except OSError as error:
            raise LostError from error
        _log_once(f"Dask at {where.address}: {found}")
        with _reported(client, ctx):
            yield client


@functools.cache
def _log_once(sentence: str) -> None:
    """Log once per process: a stage connects again for each pass over the data."""
    logging.getLogger("lepton.dask").info("%s", sentence)


@contextlib.contextmanager
def _closing(client: Any) -> Iterator[Any]:
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):  # the scheduler hangs
            client.close()


def _check_cluster(client: Any, where: Dask) -> str:
    """Check the cluster; returns a description."""
    try:
        client.wait_for_workers(1, timeout=where.patience)
    except TimeoutError as error:
        raise no_worker(where) from error
    _check_package(client, where)
    workers: dict[str, int] = client.nthreads()
    found = f"{sum(workers.values())} threads on {len(workers)} workers"
    return f"{found}, dashboard {client.dashboard_link}" if _has_dashboard(client) else found


def _has_dashboard(client: Any) -> bool:
    """Whether the scheduler has a dashboard; it reports an address for it even without bokeh or if disabled."""
    try:
        return bool(client.run_on_scheduler(_serves_dashboard))
    except AttributeError:  # another version of this package or of Dask; not an error
        return False


def _serves_dashboard(dask_scheduler: Any) -> bool:
    return bool(dask_scheduler.http_application.applications)  # bokeh's; excludes the scheduler's own routes


def _check_package(client: Any, where: Dask) -> None:
    """Check before sending work: a worker without the package would exit and log the reason only locally."""
    question = (pkgutil.resolve_name, f"{__package__}:__name__")  # pickled by name, and known to every Python
    answers = client.run(*question, on_error="return")
    try:
        client.run_on_scheduler(*question)
    except ImportError as error:
        answers[where.address] = error
    for host, answer in answers.items():
        if isinstance(answer, ImportError):
            raise ConfigError(
                f"the Dask cluster lacks Lepton's package at {host} ({answer}).",
                where="dask.address",
                fix="Run scheduler and workers from the environment or the image that the stages run in.",
            ) from answer


def no_worker(where: Dask) -> UnavailableError:
    """The error for a cluster without workers."""
    return UnavailableError(
        f"the Dask cluster at {where.address} has had no worker for {where.patience:g} s.",
        where="dask.address",
        fix=f"Start one (dask worker {where.address}), or set a longer `dask.patience`.",
    )


def threads_of(client: Any, where: Dask) -> int:
    """Current number of threads of the cluster; raises `OSError` if the scheduler does not answer."""
    nodes: dict[str, int] = client.sync(client.scheduler.ncores, callback_timeout=where.patience)
    return sum(nodes.values())


def _client(where: Dask) -> Any:
    import distributed

    security = _security(where)
    until = time.monotonic() + where.patience
    while True:
        left = max(0.5, until - time.monotonic())
        try:
            # A client waits forever for a scheduler that accepts the connection but stays silent, so test it first;
            # in a thread, since a notebook has a running event loop.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, _reach(where.address, security, left)).result()
            return distributed.Client(where.address, timeout=left, security=security, set_as_default=False)
        except OSError as error:
            fatal = isinstance(error, distributed.comm.core.FatalCommClosedError)
            if fatal or time.monotonic() >= until - 0.5:
                raise _refusal(where, error) from error
            time.sleep(0.5)  # the scheduler may be starting or stopping


async def _reach(address: str | None, security: Any, timeout: float) -> None:
    from distributed.comm.core import connect

    options = security.get_connection_args("client") if security else {}
    async with asyncio.timeout(timeout):
        comm = await connect(address, timeout=timeout, **options)
        await comm.close()


def _security(where: Dask) -> Any:
    """Security settings of `distributed`; None for plain TCP."""
    encrypted = str(where.address).startswith("tls://")
    if encrypted and where.tls is None:
        raise ConfigError(f"{where.address} needs certificates.", where="dask.tls", fix="Give ca, cert and key.")
    if not encrypted and where.tls is not None:
        raise ConfigError(
            f"{where.address} is not encrypted, but there are certificates.",
            where="dask.address",
            fix="Write tls:// instead of tcp://, or remove `dask.tls`.",
        )
    if where.tls is None:
        return None
    import distributed

    files = {name: project_root() / path for name, path in where.tls.model_dump().items()}
    for name, path in files.items():
        if not path.is_file():
            raise ConfigError(f"there is no file {path}.", where=f"dask.tls.{name}", fix="Give the path of a PEM file.")
    security = distributed.Security(
        tls_ca_file=str(files["ca"]),
        tls_client_cert=str(files["cert"]),
        tls_client_key=str(files["key"]),
        require_encryption=True,
    )
    try:
        security.get_connection_args("client")
    except OSError as error:  # an ssl.SSLError is one
        raise ConfigError(
            f"the certificate files are invalid: {error}.", where="dask.tls", fix="Give PEM files; key belongs to cert."
        ) from error
    return security


def _refusal(where: Dask, error: OSError) -> LeptonError:
    if "SSL" in repr(_root(error)):
        return ConfigError(
            f"no encrypted connection to {where.address} ({_root(error)}).",
            where="dask.tls",
            fix="Scheduler, workers and this machine need certificates of one authority: `dask.tls.ca`.",
        )
    return UnavailableError(
        f"the Dask cluster at {where.address} does not answer ({str(error) or type(error).__name__}).",
        where="dask.address",
        fix="Start it (is its address tls:// or tcp://?), or set the address to null to use this machine's threads.",
    )


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def reports_of(ctx: RunContext, ref: ArtifactRef) -> list[Path]:
    """Dask performance reports of an artifact; none if it was computed on local threads."""
    work = ctx.store.workdir(ref.stage, ctx.store.folder(ref).name)
    return sorted((work / _REPORTS).glob("*.html"))


@contextlib.contextmanager
def _reported(client: Any, ctx: RunContext) -> Iterator[None]:
    """Save Dask's performance report of the block, if possible."""
    import distributed

    page = ctx.workdir / _REPORTS / f"{ctx.clock():%Y%m%dT%H%M%S.%f}.html"
    page.parent.mkdir(exist_ok=True)
    report = distributed.performance_report(page, mode="inline")  # inline scripts, for viewing offline
    try:
        with client.as_current():
            report.__enter__()
    except OSError as error:
        raise LostError from error
    yield
    try:
        with client.as_current():
            report.__exit__(None, None, None)
    except (ImportError, OSError) as error:  # the scheduler needs bokeh for it
        ctx.log.info("no report on Dask's work: the scheduler at %s answers %s", ctx.environment.dask.address, error)
