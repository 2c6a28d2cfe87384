"""Energy use of a training: read from hardware counters, otherwise estimated."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.energy import ESTIMATED, JOULES_PER_WH, MEASURED, WATTS_PER_CORE, ZONES, Counter, rapl

if TYPE_CHECKING:
    import torch


class Meter:
    """Energy of one rank's process from now on.

    The counters of processor and memory (Intel's RAPL, AMD's under the same name) are machine-wide: they include all
    other processes, and only the first rank of each machine reads them. Without them, or without permission, the
    estimate is CPU-seconds of this process times `WATTS_PER_CORE`. NVIDIA's counters are per GPU.

    Args:
        device: Device of the network.
        local_rank: Rank on this machine.
        zones: The kernel's RAPL folder.
    """

    def __init__(self, device: torch.device, *, local_rank: int = 0, zones: Path = ZONES) -> None:
        found = list(rapl(zones).values())
        self.name = MEASURED if found else ESTIMATED
        self._counters = found if local_rank == 0 else []
        if not found:
            self._counters = [Counter(lambda: time.process_time() * WATTS_PER_CORE)]
        if device.type == "cuda":
            import torch

            gpu = _nvml(str(torch.cuda.get_device_properties(device).uuid))
            self._counters += gpu
            if not gpu:  # as with AMD's GPUs, whose unknown share is not small
                self.name = f"processor_{self.name}"
        self._joules = 0.0

    def spent(self) -> float:
        """Watt-hours since the last `take`; call it before a counter wraps around, in about 40 minutes."""
        self._joules += sum(counter.since() for counter in self._counters)
        return self._joules / JOULES_PER_WH

    def take(self) -> float:
        """Return `spent` and reset it to 0."""
        spent, self._joules = self.spent(), 0.0
        return spent


def energies(row: Mapping[str, Any]) -> dict[str, float]:
    """Energy figures in a history row or an outcome, by name; empty for older trainings."""
    return {name: value for name, value in row.items() if name.endswith("_wh")}


def _nvml(uuid: str) -> list[Counter]:
    """Energy counter of the GPU with this UUID; empty if unsupported.

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
    return [Counter(read)]
