"""Keep the cores awake while latency is measured: a virtual machine that halts an idle core is slow to wake it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# Gives way to everything else on its core, and ends with who started it.
_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10_000):
        pass
"""


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Meanwhile, no core is idle.

    A process on each spins with the least priority there is (``SCHED_IDLE``), in the session of the benchmark: in one
    of its own it would count as much as all that is measured, where the kernel groups tasks by session. It does what
    the kernel's option ``idle=poll`` does, without rights to set that.
    """
    command = [sys.executable, "-S", "-c", _SPIN]
    spinning = [subprocess.Popen([*command, str(core)]) for core in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()
