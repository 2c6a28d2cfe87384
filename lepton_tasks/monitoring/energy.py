"""Monitor `energy`: watt-hours of serving and of the last training, and the equivalent carbon dioxide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.energy import (
    ESTIMATED,
    JOULES_PER_WH,
    MEASURED,
    WATTS_PER_CORE,
    ZONES,
    Counter,
    joules_between,
    rapl,
)
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.notebook import Notebook, package_json
from lepton_tasks.monitoring.server_metrics import Servers, is_local, read_servers, recent

_DAY = 86_400.0
_LEAST_SECONDS, _LEAST_ANSWERS = 60.0, 100
_MOST_WATTS = 400.0  # of a processor: a counter that begins anew at `most` joules has not done so twice in most / this
_LINES = {"wh_per_1000": "Wh per 1,000 answers", "wh_per_day": "Wh per day of serving"}

_Limit = Annotated[float, pydantic.Field(gt=0)] | None


@dataclasses.dataclass(frozen=True)
class Energy:
    """Report the energy of serving, per 1,000 answers and per day, and of the last training.

    ``energy_wh`` is counted by the hardware (RAPL: the whole machine, whatever else runs on it); it needs the right to
    read the counters, a server on this machine, and checks that are not further apart than a counter takes to begin
    anew (minutes). ``energy_estimate_wh`` is CPU seconds of the server times 3.5 W. A model's share of its server's
    energy is its share of the time in which anything is computed. The energy of all replicas is added up.

    Args:
        max_wh_per_1000: Largest allowed Wh per 1,000 answers; null for none.
        max_wh_per_day: Largest allowed Wh per day of serving; null for none.
        max_training_wh: Largest allowed Wh of a training; null for none.
        grams_per_kwh: Carbon dioxide of the electricity in g/kWh, to tell grams too; null for unknown.
    """

    max_wh_per_1000: _Limit = None
    max_wh_per_day: _Limit = None
    max_training_wh: _Limit = None
    grams_per_kwh: Annotated[float, pydantic.Field(ge=0)] | None = None

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """Findings about the training, and about serving since the last check, or since the server was started."""
        notes = Notebook(ctx, use_case, "energy", endpoint)
        findings = self._training(package_json(ctx, endpoint, "profile.json").get("training", {}))
        servers, now = read_servers(use_case, ctx, str(endpoint.facts.get("url", ""))), ctx.clock().timestamp()
        if not servers.found:
            return [*findings, _ok(f"the energy used by serving is unknown: {servers.missing}", "serving")]
        if servers.faults:
            findings.append(_ok(f"the energy is not that of all servers: {servers.missing}", "server"))
        counters = rapl(ZONES) if all(map(is_local, servers.found)) and not servers.faults else {}
        readings = {zone: counter.read() for zone, counter in counters.items()}
        spent = _spent(servers, notes.mark, now, counters, readings)
        seconds = now - notes.mark.get("time", min(server.started for server in servers.found.values()))
        figures: dict[str, Any] = {"time": now}
        findings += self._serving(spent, seconds, figures)
        if seconds >= _LEAST_SECONDS:
            seen = {at: {"time": now, "counts": server.counts} for at, server in servers.found.items()}
            marks = recent(notes.mark.get("servers", {}), now)
            notes.remember({"time": now, "servers": marks | seen, "rapl": readings})
            notes.draw_course(figures, _LINES)
        return findings

    def _serving(self, spent: _Spent, seconds: float, figures: dict[str, Any]) -> list[Finding]:
        name, how, answers = spent.name, spent.how, spent.answers
        if seconds < _LEAST_SECONDS:
            return [
                _ok(
                    f"{seconds:.0f} s of serving are too few for an estimate (minimum: {_LEAST_SECONDS:.0f} s)",
                    "serving",
                )
            ]
        if answers < _LEAST_ANSWERS:
            few = f"{answers:.0f} answers are too few to estimate the energy per 1,000 (minimum: {_LEAST_ANSWERS})"
            findings = [_ok(few, "answers")]
        else:
            each = figures["wh_per_1000"] = spent.wh / answers * 1000
            message = f"1,000 answers take {self._told(each)} ({name}: {how}; {answers:,.0f} answers)"
            findings = [_limited(message, each, self.max_wh_per_1000, f"Wh per 1,000 answers ({name})", "answers")]
        daily = figures["wh_per_day"] = spent.watts * _DAY / 3600
        message = f"a day of serving takes {self._told(daily)}, as in the last {seconds / 3600:.2f} h ({name}: {how})"
        return [*findings, _limited(message, daily, self.max_wh_per_day, f"Wh per day ({name})", "day")]

    def _training(self, energies: Mapping[str, float]) -> list[Finding]:
        findings = [
            _limited(
                f"the training of this version took {self._told(wh)} ({name})",
                wh,
                self.max_training_wh,
                name,
                "training",
            )
            for name, wh in energies.items()
        ]
        return findings or [_ok("the model package does not record its training energy", "training")]

    def _told(self, wh: float) -> str:
        grams = "" if self.grams_per_kwh is None else f", {wh / 1000 * self.grams_per_kwh:.3g} g of CO2"
        return f"{wh:.3g} Wh{grams}"


@dataclasses.dataclass(frozen=True)
class _Spent:
    """What serving took.

    Attributes:
        name: Name of the figure.
        how: How it is known.
        answers: Answers since the marks.
        wh: Watt-hours of the model since the marks.
        watts: Their mean, of all servers together.
    """

    name: str
    how: str
    answers: float
    wh: float
    watts: float


def _spent(
    servers: Servers,
    mark: Mapping[str, Any],
    now: float,
    counters: Mapping[str, Counter],
    readings: Mapping[str, float],
) -> _Spent:
    """What serving took since the mark; each server counts from its own, or from its start."""
    marks, before = mark.get("servers", {}), mark.get("rapl", {})
    answers = cpu = own = cores = busy = busy_all = 0.0
    times = set()
    for at, server in servers.found.items():
        noted = marks.get(at, {})
        counted, since = server.since(noted.get("counts", {})), noted.get("time", server.started)
        used = counted["cpu"] * (counted["busy"] / counted["busy_all"] if counted["busy_all"] else 1.0)
        answers, cpu, own = answers + counted["answers"], cpu + counted["cpu"], own + used
        cores += used / max(now - since, _LEAST_SECONDS)
        busy, busy_all = busy + counted["busy"], busy_all + counted["busy_all"]
        times.add(since)
    shortest = min((counter.most for counter in counters.values()), default=0.0) / _MOST_WATTS
    known = readings and set(before) == set(readings) and times == {mark["time"]}
    if known and now - mark["time"] <= shortest:
        joules = sum(joules_between(before[zone], value, counters[zone].most) for zone, value in readings.items())
        share = busy / busy_all if busy_all else 1.0
        wh = joules * share / JOULES_PER_WH
        watts = joules * share / max(now - mark["time"], _LEAST_SECONDS)
        return _Spent(MEASURED, f"counters of the whole machine{_part(share)}", answers, wh, watts)
    those = f" of {len(servers.found)} servers" if len(servers.found) > 1 else ""
    how = f"{cpu:,.1f} CPU seconds{those} at {WATTS_PER_CORE:g} W{_part(own / cpu if cpu else 1.0)}"
    return _Spent(ESTIMATED, how, answers, own * WATTS_PER_CORE / JOULES_PER_WH, cores * WATTS_PER_CORE)


def _part(share: float) -> str:
    return "" if share > 0.9995 else f", {share:.1%} of it for this model"


def _limited(message: str, value: float, limit: float | None, unit: str, subject: str) -> Finding:
    passed = limit is not None and value > limit
    allowed = "" if limit is None else f"; limit {limit:g} Wh"
    return Finding(
        monitor="energy",
        severity="warning" if passed else "ok",
        message=message + allowed,
        value=value,
        limit=limit,
        unit=unit,
        subject=subject,
    )


def _ok(message: str, subject: str) -> Finding:
    return Finding(monitor="energy", severity="ok", message=message, subject=subject)
