"""Shared code of the benchmarks: alternating rounds, medians, a table, and one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark: ``--quick`` and ``--json``. From here on a signal ends it in an orderly way."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer rounds and smaller work; figures are rougher")
    options.add_argument("--json", action="store_true", help="one JSON object as the last line")
    leave_on_signals()
    return options


def arguments(description: str) -> argparse.Namespace:
    """The options given, of those that every benchmark has."""
    return parser(description).parse_args()


def leave_on_signals() -> None:
    """Let SIGTERM, SIGINT and SIGHUP leave every ``with`` and ``finally`` once, whatever signals follow."""

    def leave(number: int, frame: object) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, leave)


def alternate(subjects: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Measure A B ... A B ... and give each subject's median, so that a machine's mood meets all alike.

    Each value is shown as it comes, so that a benchmark that is cut has told something.
    """
    seen: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, measure in subjects.items():
            seen[name].append(measure())
            tell(f"{name}, {number + 1} of {rounds}", seen[name][-1])
    return {name: statistics.median(values) for name, values in seen.items()}


def tell(what: str, value: float) -> None:
    """Show a single measurement on standard error."""
    print(f"{what}: {value:,.4g}", file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def report(
    name: str,
    *,
    ratios: Mapping[str, float],
    figures: Mapping[str, float],
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    quick: bool,
    as_json: bool,
    aims: Mapping[str, Mapping[str, object]] | None = None,
    keep: bool = True,
) -> None:
    """Print the table, keep the result in `benchmarks/results`, and end with the JSON line if it is asked for.

    `aims` says of a ratio what it ought to be, and whether it is: ``{"aim": ">= 2", "met": True}``. `keep` is false for
    what a part of a run finds: it is not to take the place of the whole.
    """
    result = {"ratios": dict(ratios), "figures": dict(figures), "machine": machine(), "quick": quick}
    if aims:
        result["aims"] = {name: dict(aim) for name, aim in aims.items()}
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = 200  # a log file: cut no cell
    table = Table(*header, title=name, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)
    for key, value in ratios.items():
        aim = (aims or {}).get(key)
        told = f" (aim {aim['aim']}: {'met' if aim['met'] else 'missed'})" if aim else ""
        console.print(f"{key}: {value:.2f}{told}", highlight=False)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}{'-quick' if quick else ''}.json").write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        print(json.dumps(result))
