"""Monitor `resources`: the servers' resource usage and refusals, and their machine's free resources."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.finding import SEVERITIES, Finding, Severity
from lepton_tasks.core.proportions import wilson
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.notebook import Notebook
from lepton_tasks.monitoring.server_metrics import ServerMetrics, Servers, is_local, read_servers, recent

_MIB, _GIB = 2.0**20, 2.0**30
_LEAST_SECONDS = 1.0  # between two checks, to tell how busy the processor is
_LEAST_REQUESTS = 50
_LINES = {
    "memory": "memory of the server (MiB)",
    "cpu": "CPU cores used by the server, mean since the last check",
    "queue": "queued requests",
    "refused": "share of requests refused",
    "disk": "free disk (GiB)",
}

_finding = functools.partial(Finding, "resources")

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
_Positive = Annotated[float, pydantic.Field(gt=0)]


@dataclasses.dataclass(frozen=True)
class Resources:
    """Compare resource usage of the server and its machine with limits.

    The server is asked for its metrics; machine and disk are looked at where the server is on this machine. Of several
    replicas the worst counts, for each resource, and of refusals their sum.

    Args:
        max_memory_mib: Largest allowed memory of all processes of the server in MiB; null for none.
        max_growth_mib: By how much their memory may grow in MiB while the same processes serve the same versions.
        max_cpu: Largest allowed share of the machine's cores that the server uses, on average since the last check.
        max_open_files: Largest allowed share of the files that a process may open.
        max_queue: Largest allowed number of requests that wait for a worker.
        max_refused: Largest allowed share of requests that are refused under load (status 429 and 503).
        min_disk_gib: Least free disk where the state folder is, in GiB; below it is critical.
        min_memory: Least share of the machine's memory that is available; below it is critical.
    """

    max_memory_mib: _Positive | None = None
    max_growth_mib: _Positive = 512.0
    max_cpu: Share = 0.9
    max_open_files: Share = 0.8
    max_queue: Annotated[int, pydantic.Field(ge=0)] = 100
    max_refused: Share = 0.01
    min_disk_gib: Annotated[float, pydantic.Field(ge=0)] = 1.0
    min_memory: Share = 0.05

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """A finding for each resource; without a value where it could not be measured."""
        notes = Notebook(ctx, use_case, "resources", endpoint)
        servers, now = read_servers(use_case, ctx, str(endpoint.facts.get("url", ""))), ctx.clock().timestamp()
        findings = [
            self._disk(ctx),
            *([self._machine()] if any(map(is_local, (*servers.found, *servers.faults))) else []),
            _answering(servers),
        ]
        if servers.found:
            marks = notes.mark.get("servers", {})
            counted = {at: one.since(marks.get(at, {}).get("counts", {})) for at, one in servers.found.items()}
            usage, kept = {}, recent(marks, now)
            for at, server in servers.found.items():
                mark = marks.get(at, {})
                memory, first = self._memory(server, mark)
                seconds = now - mark.get("time", server.started)
                usage[at] = [*memory, *self._cpu(counted[at]["cpu"], seconds, local=is_local(at))]
                kept[at] = {"time": now, "counts": server.counts, "first": first, "memory_mib": memory[0].value}
            notes.remember({"servers": kept})
            moment = {at: self._now(server) for at, server in servers.found.items()}
            several = servers.count > 1
            findings += [*_worst(usage, several), self._refused(counted), *_worst(moment, several)]
        measured = {finding.subject: finding.value for finding in findings if finding.subject in _LINES}
        notes.draw_course({"time": now, **measured}, _LINES)
        return findings

    def _disk(self, ctx: RunContext) -> Finding:
        import psutil

        free = psutil.disk_usage(str(ctx.root)).free / _GIB
        message = f"{free:,.1f} GiB of disk space are free for the state folder (at least {self.min_disk_gib:g} GiB)"
        severity: Severity = "critical" if free < self.min_disk_gib else "ok"
        return _finding(severity, message, round(free, 3), self.min_disk_gib, "GiB", "disk")

    def _machine(self) -> Finding:
        import psutil

        memory = psutil.virtual_memory()
        share = memory.available / memory.total
        message = (
            f"{memory.available / _GIB:,.1f} of {memory.total / _GIB:,.1f} GiB of the machine's memory are available: "
            f"{share:.1%} (at least {self.min_memory:.1%})"
        )
        severity: Severity = "critical" if share < self.min_memory else "ok"
        return _finding(severity, message, round(share, 5), self.min_memory, "share", "machine memory")

    def _memory(self, server: ServerMetrics, mark: Mapping[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
        """Findings about memory and its growth, and what growth is counted from."""
        used = round(sum(one.get("memory", 0.0) for one in server.processes) / _MIB, 1)
        same = {"processes": sorted(server.counts), "served": list(server.served)}
        first = mark.get("first", {})
        if {key: first.get(key) for key in same} != same:
            first = {**same, "memory_mib": used}
        grown, last = round(used - first["memory_mib"], 1), used - mark.get("memory_mib", used)
        allowed = "" if self.max_memory_mib is None else f" (limit {self.max_memory_mib:,.0f} MiB)"
        message = f"the server uses {used:,.0f} MiB of memory in {len(server.processes)} processes{allowed}"
        more = (
            f"the server's memory has changed by {grown:+,.0f} MiB since the first check with these processes and "
            f"versions (limit {self.max_growth_mib:,.0f} MiB), by {last:+,.0f} MiB since the last check"
        )
        return [
            _held("memory", used, self.max_memory_mib, "MiB", message),
            _held("memory growth", grown, self.max_growth_mib, "MiB", more),
        ], first

    def _cpu(self, spent: float, seconds: float, *, local: bool) -> list[Finding]:
        """A finding about the CPU seconds `spent` since the last check, at first since the server was started."""
        if seconds < _LEAST_SECONDS:
            return []
        cores, most = round(spent / seconds, 4), os.cpu_count() or 1
        limit = self.max_cpu * most if local else None
        allowed = f" of {most} cores, on average (limit {limit:g})" if local else " cores, on average"
        return [_held("cpu", cores, limit, "cores", f"the server uses {cores:.2f}{allowed}")]

    def _refused(self, counted: Mapping[str, Mapping[str, float]]) -> Finding:
        """A finding about what all servers refused since their last check, at first since they were started."""
        requests, refused = (round(sum(one[name] for one in counted.values())) for name in ("requests", "refused"))
        if requests < _LEAST_REQUESTS:
            few = f"{requests} requests are too few to determine the share refused (minimum: {_LEAST_REQUESTS})"
            return _finding("ok", few, None, self.max_refused, "share", "refused")
        share = round(refused / requests, 5)
        message = f"{share:.1%} of {requests:,} requests were refused under load (limit {self.max_refused:.1%})"
        if refused and len(counted) > 1:
            at = max(counted, key=lambda at: counted[at]["refused"])
            message += f", {counted[at]['refused']:,.0f} of {refused:,} by {at}"
        severity: Severity = "warning" if wilson(share, requests)[0] > self.max_refused else "ok"
        return _finding(severity, message, share, self.max_refused, "share", "refused")

    def _now(self, server: ServerMetrics) -> list[Finding]:
        """Findings about what is in use at this moment."""
        waiting = f"{server.queue:.0f} requests are waiting for a worker (limit {self.max_queue})"
        findings = [_held("queue", server.queue, self.max_queue, "requests", waiting)]
        files = [(one["files"] / one["most_files"], one) for one in server.processes if one.get("most_files")]
        if files:
            share, worst = max(files, key=lambda pair: pair[0])
            message = (
                f"a process of the server has {worst['files']:.0f} of {worst['most_files']:,.0f} files open "
                f"(limit {self.max_open_files:.0%})"
            )
            findings.append(_held("open files", share, self.max_open_files, "share", message))
        return findings


def _answering(servers: Servers) -> Finding:
    """Whether all servers tell their metrics. One that says that they are not for this key is no bad news by itself."""
    found, count = len(servers.found), servers.count
    unit = "servers" if count > 1 else ""
    if not servers.faults:
        message = "the server answers" if count == 1 else f"{count} servers answer"
        return _finding("ok", message, found, None, unit, "server")
    if found:
        return _finding("warning", servers.missing, found, count, unit, "server")
    away = any(isinstance(error, UnavailableError) for error in servers.faults.values())
    return _finding("critical" if away else "ok", servers.missing, subject="server")


def _worst(findings: Mapping[str, list[Finding]], several: bool) -> list[Finding]:
    """Of each resource the worst finding, which names the server if there are `several`."""
    worst: dict[str, tuple[tuple[int, float], Finding]] = {}
    for at, those in findings.items():
        for one in those:
            rank = SEVERITIES.index(one.severity), one.value or 0.0
            if one.subject not in worst or rank > worst[one.subject][0]:
                named = f"{at} (worst of {len(findings)}): {one.message}" if several else one.message
                worst[one.subject] = rank, dataclasses.replace(one, message=named)
    return [finding for _, finding in worst.values()]


def _held(subject: str, value: float, limit: float | None, unit: str, message: str) -> Finding:
    """A warning if the value is above its limit."""
    passed = limit is not None and value > limit
    return _finding("warning" if passed else "ok", message, value, limit, unit, subject)
