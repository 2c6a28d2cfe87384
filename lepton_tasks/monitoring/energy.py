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
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.notebook import Notebook, package_json
from lepton_tasks.monitoring.server_metrics import ServerMetrics, is_local, read_server

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
    energy is its share of the time in which anything is computed.

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
        url, now = str(endpoint.facts.get("url", "")), ctx.clock().timestamp()
        try:
            server = read_server(url, use_case.name, ctx.root / "serving")
        except (ConfigError, UnavailableError) as error:
            return [*findings, _ok(f"the energy used by serving is unknown: {error}", "serving")]
        counters = rapl(ZONES) if is_local(url) else {}
        readings = {zone: counter.read() for zone, counter in counters.items()}
        name, wh, how = _spent(server, notes.mark, now, counters, readings)
        counted, seconds = server.since(notes.mark.get("counts", {})), now - notes.mark.get("time", server.started)
        figures: dict[str, Any] = {"time": now}
        findings += self._serving(name, wh, how, counted["answers"], seconds, figures)
        if seconds >= _LEAST_SECONDS:
            notes.remember({"time": now, "counts": server.counts, "rapl": readings})
            notes.draw_course(figures, _LINES)
        return findings

    def _serving(
        self, name: str, wh: float, how: str, answers: float, seconds: float, figures: dict[str, Any]
    ) -> list[Finding]:
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
            each = figures["wh_per_1000"] = wh / answers * 1000
            message = f"1,000 answers take {self._told(each)} ({name}: {how}; {answers:,.0f} answers)"
            findings = [_limited(message, each, self.max_wh_per_1000, f"Wh per 1,000 answers ({name})", "answers")]
        daily = figures["wh_per_day"] = wh / seconds * _DAY
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


def _spent(
    server: ServerMetrics,
    mark: Mapping[str, Any],
    now: float,
    counters: Mapping[str, Counter],
    readings: Mapping[str, float],
) -> tuple[str, float, str]:
    """Name of the figure, watt-hours of the model since the mark, and how they are known."""
    counted, before = server.since(mark.get("counts", {})), mark.get("rapl", {})
    share = counted["busy"] / counted["busy_all"] if counted["busy_all"] else 1.0
    part = "" if share > 0.9995 else f", {share:.1%} of it for this model"
    shortest = min((counter.most for counter in counters.values()), default=0.0) / _MOST_WATTS
    if readings and set(before) == set(readings) and now - mark["time"] <= shortest:
        joules = sum(joules_between(before[zone], value, counters[zone].most) for zone, value in readings.items())
        return MEASURED, joules * share / JOULES_PER_WH, f"counters of the whole machine{part}"
    joules = counted["cpu"] * WATTS_PER_CORE
    how = f"{counted['cpu']:,.1f} CPU seconds at {WATTS_PER_CORE:g} W{part}"
    return ESTIMATED, joules * share / JOULES_PER_WH, how


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
