"""Tables: the data stages beside Polars, DuckDB, pandas and dask.dataframe, and the limit of copying the bytes.

`python -m benchmarks.data_tables [--rows N] [--quick] [--json] [--duckdb PYTHON]`. Every subject is a process of its
own; processor time is its and its children's, memory the largest sum over its tree. Subjects run A B A B, after a copy
that is not counted; medians.
Needs about 200 bytes of disk a row beside the rows. A run with other rows, fewer rounds or only some subjects is shown
and not kept.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks.harness import parser, report
from benchmarks.tables.rows import write_rows

PEERS = Path(__file__).parent / "tables" / "peers.py"
IN_MEMORY_ROWS = 5_000_000  # pandas, dask.dataframe and Polars' `unique` of whole rows are measured up to here
ROWS, ROUNDS = 20_000_000, 3
_POLL = 0.05  # seconds
_POLLS_A_SEARCH = 10  # to find children all processes of the machine are looked at: a tenth of a core, at each poll


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run of a subject took."""

    wall: float
    cpu: float
    peak_gb: float


def measure(command: list[str]) -> Cost:
    """Run a command; its output is shown only if it fails."""
    started, before = time.monotonic(), os.times()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[1], env=_clean())
        try:
            peak = _Peak(process.pid)
            code = process.wait()
        finally:
            process.kill()
        wall, after = time.monotonic() - started, os.times()
        if code:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read()[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, cpu, peak.stop() / 1e9)


def _clean() -> dict[str, str]:
    """The environment without what Polars put there when this process loaded it: each subject sets its own."""
    return {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}


class _Peak:
    """Watches the resident memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._done = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        polls, tree = 0, [psutil.Process(self._pid)]
        while not self._done.wait(_POLL):
            try:
                if polls % _POLLS_A_SEARCH == 0:
                    tree = [tree[0], *tree[0].children(recursive=True)]
                polls += 1
                self._peak = max(self._peak, sum(member.memory_info().rss for member in tree))
            except psutil.NoSuchProcess:
                polls = 0


def subjects(rows: Path, out: Path, count: int, duckdb: str | None) -> dict[str, list[str]]:
    """The command of every subject; those that are not installed are left out, and said so."""
    peers = ["polars"]
    if count <= IN_MEMORY_ROWS:
        peers += ["polars_full", "pandas"]
        peers += ["dask_dataframe"] if importlib.util.find_spec("dask.dataframe") else []
    found = {
        "ours": [sys.executable, "-m", "benchmarks.tables.ours", str(rows), str(out)],
        "copy": [sys.executable, str(PEERS), "copy", str(rows), str(out)],
    }
    found |= {name: [sys.executable, str(PEERS), name, str(rows), str(out)] for name in peers}
    if duckdb is None and importlib.util.find_spec("duckdb") is None:
        print("duckdb is not installed: left out; name a Python that has it with --duckdb.", file=sys.stderr)
    else:
        found["duckdb"] = [duckdb or sys.executable, str(PEERS), "duckdb", str(rows), str(out)]
    return found


def main() -> None:
    """Measure, print and keep the result."""
    known = parser(__doc__ or "")
    known.add_argument("--rows", type=int, default=ROWS, help="with --quick, a million")
    known.add_argument("--rounds", type=int, default=ROUNDS)
    known.add_argument("--duckdb", metavar="PYTHON", help="an interpreter that has DuckDB")
    known.add_argument("--folder", type=Path, help="where rows are kept for the next time")
    known.add_argument("--only", help="names of subjects, by commas")
    options = known.parse_args()
    count, rounds = (1_000_000, 1) if options.quick else (options.rows, options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        rows, out = (options.folder or Path(scratch)) / f"rows-{count}", Path(scratch) / "out"
        write_rows(rows, count)
        commands = subjects(rows, out, count, options.duckdb)
        measure(commands["copy"])  # not counted: rows come into the page cache, and the disk's free blocks are found
        if options.only:
            commands = {name: commands[name] for name in options.only.split(",")}
        seen: dict[str, list[Cost]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                os.sync()  # what the one before left to be written would be written while this one runs
                seen[name].append(measure(command))
                print(f"{name}: {seen[name][-1]}", file=sys.stderr)
    median = {
        name: Cost(*(statistics.median(getattr(cost, field) for cost in costs) for field in ("wall", "cpu", "peak_gb")))
        for name, costs in seen.items()
    }
    figures = {
        f"{name}_{field}": getattr(cost, field) for name, cost in median.items() for field in ("wall", "cpu", "peak_gb")
    }
    report(
        "data_tables",
        ratios=ratios(median),
        figures=figures | {"rows": float(count)},
        header=["subject", "wall s", "CPU s", "peak GB", "CPU us/row"],
        rows=[[name, c.wall, c.cpu, c.peak_gb, c.cpu / count * 1e6] for name, c in median.items()],
        quick=options.quick,
        as_json=options.json,
        keep=options.only is None and (options.quick or (count == ROWS and rounds >= ROUNDS)),
    )


def ratios(median: dict[str, Cost]) -> dict[str, float]:
    """Ours over each subject that was measured."""
    wanted = {
        "wall_vs_polars": ("wall", "polars"),
        "cpu_vs_polars": ("cpu", "polars"),
        "memory_vs_polars": ("peak_gb", "polars"),
        "wall_vs_duckdb": ("wall", "duckdb"),
        "cpu_vs_duckdb": ("cpu", "duckdb"),
        "wall_vs_limit": ("wall", "copy"),
        "cpu_vs_limit": ("cpu", "copy"),
        "cpu_vs_dask_dataframe": ("cpu", "dask_dataframe"),
    }
    if "ours" not in median:
        return {}
    ours = median["ours"]
    return {
        name: getattr(ours, field) / getattr(median[peer], field)
        for name, (field, peer) in wanted.items()
        if peer in median
    }


if __name__ == "__main__":
    main()
