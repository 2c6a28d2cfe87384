"""Monitor `resources`: what the server uses and refuses, and what its machine has left."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any

import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.finding import Finding, Severity
from lepton_tasks.core.proportions import wilson
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.notebook import Notebook
from lepton_tasks.monitoring.server_metrics import ServerMetrics, is_local, read_server

_MIB, _GIB = 2.0**20, 2.0**30
_LEAST_SECONDS = 5.0  # between two checks, to tell how busy the processor is
_LEAST_REQUESTS = 50
_LINES = {
    "memory_mib": "memory of the server (MiB)",
    "cores": "processor cores in use, mean since the check before",
    "queue": "requests that wait",
    "refused": "share of requests that are refused",
    "disk_gib": "free disk (GiB)",
}

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
_Positive = Annotated[float, pydantic.Field(gt=0)]


@dataclasses.dataclass(frozen=True)
class Resources:
    """Compare what the server and its machine use with limits.

    The server is asked for its metrics; machine and disk are looked at where the server is on this machine.

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
        """A finding for each limit that is passed, and one that tells all figures."""
        notes = Notebook(ctx, use_case, "resources", endpoint)
        url, now = str(endpoint.facts.get("url", "")), ctx.clock().timestamp()
        told: list[str] = []
        figures: dict[str, Any] = {"time": now}
        findings = self._disk(ctx, told, figures)
        try:
            server = read_server(url, use_case.name, ctx.root / "serving")
        except UnavailableError as error:
            findings.append(_finding("critical", str(error), None, None, "", "server"))
        except ConfigError as error:
            told.append(str(error))
        else:
            findings += self._memory(server, notes.mark, told, figures)
            findings += self._since(server, notes.mark, now, told, figures, local=is_local(url))
            findings += self._now(server, told, figures)
            first = figures["first"]
            notes.remember({"time": now, "counts": server.counts, "first": first, "memory_mib": figures["memory_mib"]})
        if is_local(url):
            findings += self._machine(told)
        notes.draw_course({key: figures.get(key) for key in ("time", *_LINES)}, _LINES)
        return [*findings, _finding("ok", "; ".join(told), None, None, "", "")]

    def _disk(self, ctx: RunContext, told: list[str], figures: dict[str, Any]) -> list[Finding]:
        import psutil

        free = figures["disk_gib"] = round(psutil.disk_usage(str(ctx.root)).free / _GIB, 3)
        told.append(f"{free:,.1f} GiB of disk are free")
        if free >= self.min_disk_gib:
            return []
        message = f"{free:.2f} GiB of disk are free where the state folder is (at least {self.min_disk_gib:g} GiB)"
        return [_finding("critical", message, free, self.min_disk_gib, "GiB", "disk")]

    def _machine(self, told: list[str]) -> list[Finding]:
        import psutil

        memory = psutil.virtual_memory()
        share = memory.available / memory.total
        told.append(
            f"{memory.available / _GIB:,.1f} of {memory.total / _GIB:,.1f} GiB of the machine's memory are free"
        )
        if share >= self.min_memory:
            return []
        message = f"{share:.1%} of the machine's memory is available (at least {self.min_memory:.1%})"
        return [_finding("critical", message, share, self.min_memory, "share", "machine memory")]

    def _memory(
        self, server: ServerMetrics, mark: dict[str, Any], told: list[str], figures: dict[str, Any]
    ) -> list[Finding]:
        used = figures["memory_mib"] = round(sum(one.get("memory", 0.0) for one in server.processes) / _MIB, 1)
        same = {"processes": sorted(server.counts), "served": list(server.served)}
        first = mark.get("first", {})
        alike = {key: first.get(key) for key in same} == same
        figures["first"] = first if alike else {**same, "memory_mib": used}
        grown = used - figures["first"]["memory_mib"]
        text = f"{used:,.0f} MiB in {len(server.processes)} processes"
        if alike:
            text += f" ({used - mark['memory_mib']:+,.0f} MiB since the last check, {grown:+,.0f} since the first one)"
        told.append(text)
        findings = []
        if self.max_memory_mib is not None and used > self.max_memory_mib:
            message = f"the server uses {used:,.0f} MiB of memory (limit {self.max_memory_mib:,.0f} MiB)"
            findings.append(_finding("warning", message, used, self.max_memory_mib, "MiB", "memory"))
        if grown > self.max_growth_mib:
            message = (
                f"the server's memory has grown by {grown:,.0f} MiB to {used:,.0f} MiB, with the same processes and "
                f"versions (limit {self.max_growth_mib:,.0f} MiB)"
            )
            findings.append(_finding("warning", message, grown, self.max_growth_mib, "MiB", "memory growth"))
        return findings

    def _since(
        self,
        server: ServerMetrics,
        mark: dict[str, Any],
        now: float,
        told: list[str],
        figures: dict[str, Any],
        *,
        local: bool,
    ) -> list[Finding]:
        """What is counted since the last check, or since the server was started."""
        counted, began = server.since(mark.get("counts", {})), mark.get("time", server.started)
        findings = []
        if now - began >= _LEAST_SECONDS:
            cores = figures["cores"] = round(counted["cpu"] / (now - began), 4)
            told.append(f"{cores:.2f} cores in use")
            most = os.cpu_count() or 1
            if local and cores > self.max_cpu * most:
                limit = self.max_cpu * most
                message = f"the server uses {cores:.2f} of {most} cores (limit {limit:.2f})"
                findings.append(_finding("warning", message, cores, limit, "cores", "cpu"))
        requests, refused = round(counted["requests"]), round(counted["refused"])
        if requests < _LEAST_REQUESTS:
            told.append(f"{requests} requests since the last check are too few to tell how many are refused")
            return findings
        share = figures["refused"] = round(refused / requests, 5)
        told.append(f"{share:.2%} of {requests:,} requests refused")
        if wilson(share, requests)[0] > self.max_refused:
            message = f"{share:.1%} of {requests:,} requests were refused under load (limit {self.max_refused:.1%})"
            findings.append(_finding("warning", message, share, self.max_refused, "share", "refused"))
        return findings

    def _now(self, server: ServerMetrics, told: list[str], figures: dict[str, Any]) -> list[Finding]:
        """What is in use at this moment."""
        findings = []
        figures["queue"] = server.queue
        told.append(f"{server.queue:.0f} requests wait")
        if server.queue > self.max_queue:
            message = f"{server.queue:.0f} requests wait for a worker (limit {self.max_queue})"
            findings.append(_finding("warning", message, server.queue, self.max_queue, "requests", "queue"))
        files = [(one["files"] / one["most_files"], one) for one in server.processes if one.get("most_files")]
        if files:
            share, worst = max(files, key=lambda pair: pair[0])
            told.append(f"{worst['files']:.0f} of {worst['most_files']:,.0f} files open")
            if share > self.max_open_files:
                message = (
                    f"a process of the server has {worst['files']:.0f} of {worst['most_files']:,.0f} files open "
                    f"(limit {self.max_open_files:.0%})"
                )
                findings.append(_finding("warning", message, share, self.max_open_files, "share", "open files"))
        return findings


def _finding(
    severity: Severity, message: str, value: float | None, limit: float | None, unit: str, subject: str
) -> Finding:
    return Finding(
        monitor="resources",
        severity=severity,
        message=message,
        value=value,
        limit=limit,
        unit=unit,
        subject=subject,
    )
