"""Energy of processor and memory: hardware counters, and the constant to estimate it without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

WATTS_PER_CORE = 3.5
"""Power of one busy core (hardware thread), including its share of the machine.

Source: Cloud Carbon Footprint, "Methodology": watts per vCPU at full load, mean of AWS processors (Google's 4.26,
Azure's 3.76), after SPECpower; https://www.cloudcarbonfootprint.org/docs/methodology/
"""

MEASURED, ESTIMATED = "energy_wh", "energy_estimate_wh"
"""Metric names, in watt-hours: measured entirely by hardware counters, or partly estimated."""

ZONES = Path("/sys/class/powercap")
"""The kernel's folder of RAPL counters."""
JOULES_PER_WH = 3600.0


@dataclasses.dataclass
class Counter:
    """A counter of joules that wraps around to 0 after `most`."""

    read: Callable[[], float]
    most: float = float("inf")

    def __post_init__(self) -> None:
        self._last = self.read()

    def since(self) -> float:
        """Joules since the last call; correct if the counter wrapped around at most once."""
        before, self._last = self._last, self.read()
        return joules_between(before, self._last, self.most)


def joules_between(before: float, now: float, most: float) -> float:
    """Joules between two readings of a counter that may have wrapped around once, after `most`."""
    return now - before if now >= before else now - before + most


def rapl(zones: Path = ZONES) -> dict[str, Counter]:
    """Counters of processor packages and memory, by zone; empty if there are none or one is not readable.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """
    found = {}
    try:
        for zone in sorted(zones.glob("intel-rapl:*")):
            if (zone / "name").read_text().startswith(("package", "dram")):
                file, most = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()) / 1e6
                found[zone.name] = Counter(lambda file=file: int(file.read_text()) / 1e6, most)  # type: ignore[misc]
    except OSError:  # PermissionError for all but root since Linux 5.10
        return {}
    return found
