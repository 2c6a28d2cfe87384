"""`python -m benchmarks [--quick]`: run every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_NOT_BENCHMARKS = {"__init__", "__main__", "harness", "plain_digits"}

if __name__ == "__main__":
    names = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_BENCHMARKS)
    failed = [n for n in names if subprocess.run([sys.executable, "-m", f"benchmarks.{n}", *sys.argv[1:]]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
