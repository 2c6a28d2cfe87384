"""Energy use of a training: read from hardware counters, otherwise estimated."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WATTS_PER_CORE = 3.5
"""Of one busy core (hardware thread) with its share of the machine around it.

Source: Cloud Carbon Footprint, "Methodology": watts per vCPU at full load, mean of the processors that AWS lends
(Google's 4.26, Azure's 3.76), after SPECpower; https://www.cloudcarbonfootprint.org/docs/methodology/
"""

MEASURED, ESTIMATED = "energy_wh", "energy_estimate_wh"
"""Names of the figure, in watt-hours: all of it counted by the hardware, or some of it estimated."""

_ZONES = Path("/sys/class/powercap")
_JOULES_PER_WH = 3600.0


@dataclasses.dataclass
class _Counter:
    """A counter of joules that may begin again at 0 after `most`."""

    read: Callable[[], float]
    most: float = float("inf")

    def __post_init__(self) -> None:
        self._last = self.read()

    def since(self) -> float:
        """Joules since the last call; right if the counter went round at most once."""
        before, self._last = self._last, self.read()
        return self._last - before if self._last >= before else self._last - before + self.most


class Meter:
    """Energy of one rank's process from now on.

    The counters of processor and memory (Intel's RAPL, AMD's under the same name) are the machine's: they count
    whatever else runs on it, and are read by the first rank of each machine alone. Without them, or without the right
    to read them, CPU-seconds of this process times `WATTS_PER_CORE` are taken. NVIDIA's counters are the GPU's.

    Args:
        device: Of the network.
        local_rank: Among the ranks of this machine.
        zones: Where the kernel shows RAPL's counters.
    """

    def __init__(self, device: torch.device, *, local_rank: int = 0, zones: Path = _ZONES) -> None:
        found = _rapl(zones)
        self.name = MEASURED if found else ESTIMATED
        self._counters = found if local_rank == 0 else []
        if not found:
            self._counters = [_Counter(lambda: time.process_time() * WATTS_PER_CORE)]
        if device.type == "cuda":
            import torch

            gpu = _nvml(str(torch.cuda.get_device_properties(device).uuid))
            self._counters += gpu
            if not gpu:  # as with AMD's GPUs, whose share is unknown and not small
                self.name = f"processor_{self.name}"
        self._joules = 0.0

    def spent(self) -> float:
        """Watt-hours since the last `take`; to be asked more often than a counter goes round, some 40 minutes."""
        self._joules += sum(counter.since() for counter in self._counters)
        return self._joules / _JOULES_PER_WH

    def take(self) -> float:
        """What `spent` gives, which then begins at 0 again."""
        spent, self._joules = self.spent(), 0.0
        return spent


def energies(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of energy in a row of the history or an outcome, by name; none in one of an older training."""
    return {name: value for name, value in row.items() if name.endswith("_wh")}


def _rapl(zones: Path) -> list[_Counter]:
    """Counters of all packages and of memory beside them; empty without any or if one may not be read.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """
    found = []
    try:
        for zone in sorted(zones.glob("intel-rapl:*")):
            if (zone / "name").read_text().startswith(("package", "dram")):
                file, most = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()) / 1e6
                found.append(_Counter(lambda file=file: int(file.read_text()) / 1e6, most))  # type: ignore[misc]
    except OSError:  # PermissionError for all but root since Linux 5.10
        return []
    return found


def _nvml(uuid: str) -> list[_Counter]:
    """The counter of the GPU with this UUID; empty if its driver has none.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return []
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()

    def read() -> float:
        library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    name = f"GPU-{uuid.removeprefix('GPU-')}".encode()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return []
    if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):  # before the Volta generation
        return []
    return [_Counter(read)]
