"""Measurements of one run of the benchmark."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from benchmarks.served.wrk import Load


class Limit(NamedTuple):
    """Samples a second of ONNX Runtime alone, in one thread."""

    one: float
    """In batches of one."""
    eight: float
    """In batches of eight."""


@dataclasses.dataclass
class ServerResult:
    """One server with one model.

    Attributes:
        ready_seconds: From its start to the first answer.
        peak_mib: Most memory after a load.
        loads: By number of connections.
        awake: With one connection, while no core was idle.
    """

    ready_seconds: float
    peak_mib: float = 0.0
    loads: dict[int, Load] = dataclasses.field(default_factory=dict)
    awake: Load | None = None


@dataclasses.dataclass
class Results:
    """All measurements.

    Attributes:
        connections: Numbers of connections that were measured.
        servers: By model and subject; subjects are ``ours_json``, ``ours_binary``, ``ours_one_json``, ``ours_one``,
            and the peers' names.
        limits: By model.
        versions: Of the peers.
        absent: Servers that could not be measured, and why.
    """

    connections: tuple[int, ...]
    servers: dict[tuple[str, str], ServerResult] = dataclasses.field(default_factory=dict)
    limits: dict[str, Limit] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, model: str, subject: str, connections: int) -> Load | None:
        """The load at a number of connections; None if not measured."""
        server = self.servers.get((model, subject))
        return server.loads.get(connections) if server else None

    def awake(self, model: str, subject: str) -> Load | None:
        """The load of one connection while no core was idle; None if not measured."""
        server = self.servers.get((model, subject))
        return server.awake if server else None

    def subjects(self) -> list[str]:
        """Names in order of measurement."""
        return list(dict.fromkeys(subject for _, subject in self.servers))

    def figures(self) -> dict[str, float]:
        """All measurements as a flat mapping."""
        flat: dict[str, float] = {}
        for model, limit in self.limits.items():
            flat |= {f"{model}_onnxruntime_batch_1": limit.one, f"{model}_onnxruntime_batch_8": limit.eight}
        for (model, subject), server in self.servers.items():
            flat[f"{model}_{subject}_ready_s"] = server.ready_seconds
            flat[f"{model}_{subject}_peak_mib"] = server.peak_mib
            if server.awake:
                at = f"{model}_{subject}_awake"
                flat |= {f"{at}_p50_ms": server.awake.p50, f"{at}_p99_ms": server.awake.p99}
            for c, load in server.loads.items():
                at = f"{model}_{subject}_c{c}"
                flat |= {f"{at}_per_s": load.rate, f"{at}_p50_ms": load.p50, f"{at}_p99_ms": load.p99}
                if load.refused or load.broken:
                    flat |= {f"{at}_refused": load.refused, f"{at}_broken": float(load.broken)}
        return flat
