"""`python -m benchmarks [--quick] [--json]`: run every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import leave_on_signals

# What a benchmark compares with, and what all share; the other files of this folder are benchmarks.
_HELPERS = ("__", "harness", "plain_")


def names() -> list[str]:
    """Every benchmark."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if not file.stem.startswith(_HELPERS)]


def run(name: str) -> int:
    """The exit status of a benchmark; it is told to end, and waited for, if this process is."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]) as process:
        try:
            process.wait()
        except BaseException:
            process.terminate()
            raise
    print(f"{name}: status {process.returncode} after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    leave_on_signals()
    if failed := [name for name in names() if run(name)]:
        sys.exit(f"failed: {', '.join(failed)}")
