"""What the ``/metrics`` of all servers of a deployment tell of their processes and of one model."""

from __future__ import annotations

import collections
import dataclasses
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lepton_tasks.core.access import bearer, own_key, trusted
from lepton_tasks.core.components import deploy_target_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.release_protocols import Address
from lepton_tasks.core.use_case import UseCase

_SECONDS = 10.0
_AT_ONCE = 16
_KEPT_SECONDS = 86_400.0
_PROCESS = {
    "process_cpu_seconds_total": "cpu",
    "process_resident_memory_bytes": "memory",
    "process_open_fds": "files",
    "process_max_fds": "most_files",
    "process_start_time_seconds": "started",
}
_COMPUTING = ("decode", "run", "encode")
_REFUSED = ("429", "503")

Counts = Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class ServerMetrics:
    """A server at one moment.

    Attributes:
        processes: Of each process ``memory`` (bytes), ``files``, ``most_files`` and ``started`` (Unix time), as far as
            the system tells them.
        counts: Of each process since its start ``cpu``, ``answers``, ``refused`` and ``requests`` of the model, and
            ``busy`` and ``busy_all``: seconds of computing for the model, and for all models.
        queue: Requests for the model that wait for a worker.
        served: Versions of all models that answer.
    """

    processes: tuple[Mapping[str, float], ...]
    counts: Counts
    queue: float
    served: tuple[str, ...]

    def since(self, before: Counts) -> dict[str, float]:
        """What was counted since `before` was, in all processes; one that was started anew counts from its start."""
        total: dict[str, float] = collections.defaultdict(float)
        for process, counts in self.counts.items():
            for name, value in counts.items():
                total[name] += value - before.get(process, {}).get(name, 0.0)
        return total

    @property
    def started(self) -> float:
        """Unix time at which the oldest process was started."""
        return min((process["started"] for process in self.processes if "started" in process), default=0.0)


def is_local(url: str) -> bool:
    """Whether a server is on this machine."""
    return urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True)
class Servers:
    """All servers of a deployment at one moment.

    Attributes:
        found: Those that tell their metrics, by address.
        faults: Why others do not, by address.
    """

    found: Mapping[str, ServerMetrics]
    faults: Mapping[str, ConfigError | UnavailableError]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.found) + len(self.faults)

    @property
    def missing(self) -> str:
        """Which do not tell their metrics, why, and the ways out."""
        if self.count == 1:
            return "".join(map(str, self.faults.values()))
        why = [f"{at}: {error.what}" for at, error in self.faults.items()]
        told = " ".join([*why, *dict.fromkeys(error.fix for error in self.faults.values() if error.fix)])
        return f"{len(self.faults)} of {self.count} servers do not tell their metrics: {told}"


def read_servers(use_case: UseCase, ctx: RunContext, url: str) -> Servers:
    """The metrics of every server of a use case; of the one at `url` where the target has no more."""

    def ask(server: Address) -> ServerMetrics | ConfigError | UnavailableError:
        try:
            return read_server(server, use_case.name, ctx.root / "serving")
        except (ConfigError, UnavailableError) as error:
            return error

    try:
        servers = deploy_target_of(use_case, ctx.environment).logs(ctx) or [Address(url)]
    except UnavailableError as error:
        return Servers({}, {url: error})
    with ThreadPoolExecutor(min(_AT_ONCE, len(servers))) as threads:
        replies = dict(zip((server.url for server in servers), threads.map(ask, servers), strict=True))
    return Servers(
        {at: reply for at, reply in replies.items() if isinstance(reply, ServerMetrics)},
        {at: reply for at, reply in replies.items() if not isinstance(reply, ServerMetrics)},
    )


def recent(marks: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, Mapping[str, Any]]:
    """What was noted of servers, by address, that may be back: those that were asked within a day."""
    return {at: mark for at, mark in marks.items() if now - mark["time"] < _KEPT_SECONDS}


def read_server(server: Address, model: str, home: Path) -> ServerMetrics:
    """The metrics of a server.

    Args:
        server: Its address.
        model: The model that is asked about.
        home: The server's state folder, where it is on this machine: the key of the stages follows from it.

    Raises:
        UnavailableError: it does not answer.
        ConfigError: it does not tell its metrics to this key.
    """
    import httpx

    url, headers = server.url, bearer(own_key(home)) | server.headers
    try:
        with httpx.Client(timeout=_SECONDS, verify=trusted(), trust_env=False) as client:
            reply = client.get(f"{url}/metrics", headers=headers, extensions=server.extensions)
    except httpx.TransportError as error:
        raise UnavailableError(f"the server does not answer: {error or type(error).__name__}.", where=url) from error
    if not reply.is_success:
        fix = "Set LEPTON_API_KEY to a key made with `lepton key add NAME --models /metrics`."
        raise ConfigError(f"the server answers {reply.status_code} to a request for its metrics.", where=url, fix=fix)
    return parse(reply.text, model)


def parse(text: str, model: str) -> ServerMetrics:
    """What Prometheus' text says of the processes and the model."""
    from prometheus_client.parser import text_string_to_metric_families

    processes: dict[str, dict[str, float]] = collections.defaultdict(dict)
    counts: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    queue, served = 0.0, set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels, name, value = sample.labels, sample.name, sample.value
            number = labels.get("process", "0")
            about = counts[number]
            if name in _PROCESS:
                processes[number][_PROCESS[name]] = value
            elif name == "lepton_stage_seconds_sum" and labels["stage"] in _COMPUTING:
                about["busy_all"] += value
                about["busy"] += value if labels["model"] == model else 0.0
            elif name == "lepton_model_info":
                served.add(f"{labels['model']} {labels['version']}")
            elif labels.get("model") == model and name == "lepton_requests_total":
                about["requests"] += value
                about["answers"] += value if labels["status"] == "200" else 0.0
                about["refused"] += value if labels["status"] in _REFUSED else 0.0
            elif labels.get("model") == model and name == "lepton_queue_depth":
                queue += value
    named = {}
    for number, about in counts.items():
        process = processes[number]
        about["cpu"] = process.get("cpu", 0.0)
        named[f"{number}@{process.get('started', 0.0):.2f}"] = dict(about)
    return ServerMetrics(tuple(processes.values()), named, queue, tuple(sorted(served)))
