"""Energy of processor and memory: hardware counters, and the estimate where there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

WATTS_PER_CORE = 3.5
"""Of one busy core (hardware thread) with its share of the machine around it.

Source: Cloud Carbon Footprint, "Methodology": watts per vCPU at full load, mean of the processors that AWS lends
(Google's 4.26, Azure's 3.76), after SPECpower; https://www.cloudcarbonfootprint.org/docs/methodology/
"""

MEASURED, ESTIMATED = "energy_wh", "energy_estimate_wh"
"""Names of the figure, in watt-hours: all of it counted by the hardware, or some of it estimated."""

ZONES = Path("/sys/class/powercap")
"""Where the kernel shows RAPL's counters."""
JOULES_PER_WH = 3600.0


@dataclasses.dataclass
class Counter:
    """A counter of joules that may begin again at 0 after `most`."""

    read: Callable[[], float]
    most: float = float("inf")

    def __post_init__(self) -> None:
        self._last = self.read()

    def since(self) -> float:
        """Joules since the last call; right if the counter went round at most once."""
        before, self._last = self._last, self.read()
        return joules_between(before, self._last, self.most)


def joules_between(before: float, now: float, most: float) -> float:
    """Joules between two readings of a counter that may have begun again at 0 once, after `most`."""
    return now - before if now >= before else now - before + most


def rapl(zones: Path = ZONES) -> dict[str, Counter]:
    """Counters of all packages and of memory beside them, by zone; empty without any or if one may not be read.

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
