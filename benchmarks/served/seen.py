"""What a run of the benchmark has seen."""

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
class Standing:
    """One server with one model.

    Attributes:
        ready_seconds: From its start to the first answer.
        peak_mib: Most memory after a load.
        loads: By connections.
        awake: With one connection, while no core was idle.
    """

    ready_seconds: float
    peak_mib: float = 0.0
    loads: dict[int, Load] = dataclasses.field(default_factory=dict)
    awake: Load | None = None


@dataclasses.dataclass
class Seen:
    """Everything.

    Attributes:
        connections: At which the servers were pressed.
        standings: By model and subject; subjects are ``ours_json``, ``ours_binary``, ``ours_one_json``, ``ours_one``,
            and the peers' names.
        limits: By model.
        versions: Of the peers.
        absent: What could not be measured, and why.
    """

    connections: tuple[int, ...]
    standings: dict[tuple[str, str], Standing] = dataclasses.field(default_factory=dict)
    limits: dict[str, Limit] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)

    def load(self, model: str, subject: str, connections: int) -> Load | None:
        """What was measured, if it was."""
        standing = self.standings.get((model, subject))
        return standing.loads.get(connections) if standing else None

    def awake(self, model: str, subject: str) -> Load | None:
        """What was measured with one connection while no core was idle, if it was."""
        standing = self.standings.get((model, subject))
        return standing.awake if standing else None

    def subjects(self) -> list[str]:
        """In the order they came."""
        return list(dict.fromkeys(subject for _, subject in self.standings))

    def figures(self) -> dict[str, float]:
        """All of it, flat."""
        flat: dict[str, float] = {}
        for model, limit in self.limits.items():
            flat |= {f"{model}_onnxruntime_batch_1": limit.one, f"{model}_onnxruntime_batch_8": limit.eight}
        for (model, subject), standing in self.standings.items():
            flat[f"{model}_{subject}_ready_s"] = standing.ready_seconds
            flat[f"{model}_{subject}_peak_mib"] = standing.peak_mib
            if standing.awake:
                at = f"{model}_{subject}_awake"
                flat |= {f"{at}_p50_ms": standing.awake.p50, f"{at}_p99_ms": standing.awake.p99}
            for c, load in standing.loads.items():
                at = f"{model}_{subject}_c{c}"
                flat |= {f"{at}_per_s": load.rate, f"{at}_p50_ms": load.p50, f"{at}_p99_ms": load.p99}
                if load.refused or load.broken:
                    flat |= {f"{at}_refused": load.refused, f"{at}_broken": float(load.broken)}
        return flat
