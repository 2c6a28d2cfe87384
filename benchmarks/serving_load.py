"""Our server under more load than it can bear, and under much load for long.

`python -m benchmarks.serving_load [--quick] [--json] [--overload SECONDS] [--soak MINUTES] [--model NAME]`

Capacity is what wrk gets with 64 connections, binary tensors, before or after the overload, the better of both. The
load is open-loop: a request is sent when it is due, whatever became of those before, and its time counts from then.
The model is a CNN of 1.25 ms, so that the client, which shares the machine, takes little of it: its share of a core is
among the figures. With smaller models it takes a large part of the machine, or is late itself, which counts as time of
the answer; then the server's own part, the yield, says more.

Overload: 5 s at 0.3 x capacity, 60 s at 3 x, 10 s at 0.3 x.
    overload_goodput_vs_capacity          good answers given in a second : capacity (larger is better)
    overload_yield                        good answers a second of the server's processor time : the same at capacity
                                          (larger is better; what the client takes does not count)
    overload_refusal_vs_answer            median time of a refusal : median of an answer before the overload
    overload_accepted_p99_vs_1_second     99 of 100 accepted requests are answered within
    overload_recovery_vs_2_seconds        until answers come as before, after the overload
Soak: 10 minutes at 0.8 x.
    soak_growth                           resident memory in the last tenth : in the fifth tenth
    soak_failed                           share of the requests that were not answered
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import parser, report, tell
from benchmarks.served import graphs, ours
from benchmarks.served.open_loop import Answers, send
from benchmarks.served.processes import Server
from benchmarks.served.wire import WIRES, Request
from benchmarks.served.wrk import press, require_wrk

_MODEL = "cnn_large"
_LITTLE, _MUCH, _LONG = 0.3, 3.0, 0.8  # of capacity
_WINDOW_SECONDS, _CAPACITY_SECONDS = 0.25, 4
_GOOD = 200
_AT_LEAST = {"overload_goodput_vs_capacity": 0.9}
_AT_MOST = {
    "overload_refusal_vs_answer": 1.0,
    "overload_accepted_p99_vs_1_second": 1.0,
    "overload_recovery_vs_2_seconds": 1.0,
    "soak_growth": 1.02,
    "soak_failed": 0.0,
}


def overload(server: Server, path: str, request: Request, capacity: float, seconds: float) -> dict[str, float]:
    """Figures of the overload."""
    before, after = 5.0, 10.0
    phases = [(_LITTLE * capacity, before), (_MUCH * capacity, seconds), (_LITTLE * capacity, after)]
    spent: list[tuple[float, float]] = []
    answers = send(
        server.port, path, request, phases, watch=lambda now: spent.append((now, server.cpu_seconds())), every=0.5
    )
    calm, storm = answers.between(0, before), answers.between(before, before + seconds)
    usual = float(np.median(calm.times(good=True)))
    good, refused = storm.times(good=True), storm.times(good=False)
    within = [(now, cpu) for now, cpu in spent if before <= now <= before + seconds]
    (start, cpu_start), (end, cpu_end) = within[0], within[-1]
    return {
        "goodput": int((answers.answered(before, before + seconds).status == _GOOD).sum()) / seconds,
        "cpu_us_an_answer": (cpu_end - cpu_start) / int((answers.answered(start, end).status == _GOOD).sum()) * 1e6,
        "offered": len(storm.due) / seconds,
        "refused_share": storm.share(good=False),
        "broken_share": 1 - storm.share(good=True) - storm.share(good=False),
        "calm_p50_ms": usual * 1e3,
        "accepted_p50_ms": float(np.median(good)) * 1e3,
        "accepted_p99_ms": float(np.percentile(good, 99)) * 1e3,
        "refusal_p50_ms": float(np.median(refused)) * 1e3,
        "refusal_p99_ms": float(np.percentile(refused, 99)) * 1e3,
        "recovery_s": recovery(answers.between(before + seconds, np.inf), before + seconds, usual),
        "client_cpu_share": answers.cpu_share,
    }


def recovery(answers: Answers, since: float, usual: float) -> float:
    """Seconds after which, in each quarter of a second, all is answered, and half of it in twice the usual time."""
    windows = ((answers.due - since) / _WINDOW_SECONDS).astype(int)
    bad = 0
    for window in range(int(windows.max()) + 1):
        seen = answers.between(since + window * _WINDOW_SECONDS, since + (window + 1) * _WINDOW_SECONDS)
        if len(seen.due) and (seen.share(good=True) < 1 or np.median(seen.seconds) > 2 * usual):
            bad = window + 1
    return bad * _WINDOW_SECONDS


def soak(server: Server, path: str, request: Request, capacity: float, minutes: float) -> dict[str, float]:
    """Figures of the long load; memory is read once a second."""
    memory: list[tuple[float, float]] = []
    phases = [(_LONG * capacity, 60 * minutes)]
    answers = send(
        server.port, path, request, phases, watch=lambda now: memory.append((now / 60, server.resident_mib()))
    )
    times, resident = np.array(memory).T
    half, tenth = times >= times[-1] / 2, max(1, len(times) // 10)
    good = answers.times(good=True)
    return {
        "first_mib": float(np.median(resident[:tenth])),
        "middle_mib": float(np.median(resident[4 * tenth : 5 * tenth] if len(times) >= 5 else resident)),
        "last_mib": float(np.median(resident[-tenth:])),
        "slope_mib_a_minute": float(np.polyfit(times[half], resident[half], 1)[0]) if half.sum() > 1 else 0.0,
        "failed_share": 1 - answers.share(good=True),
        "requests": float(len(answers.due)),
        "p50_ms": float(np.median(good)) * 1e3,
        "p99_ms": float(np.percentile(good, 99)) * 1e3,
        "client_cpu_share": answers.cpu_share,
    }


def _capacity(server: Server, path: str, request: Request, folder: Path) -> tuple[float, float]:
    """Good answers a second to 64 connections that ask all the time, and processor time of the server for each, us."""
    before = server.cpu_seconds()
    rate = press(server.port, path, request, folder, connections=64, seconds=_CAPACITY_SECONDS).rate
    spent = (server.cpu_seconds() - before) / (rate * _CAPACITY_SECONDS) * 1e6
    tell("capacity, answers a second", rate)
    server.settle()
    return rate, spent


def main() -> None:
    """Measure and report."""
    options = parser(__doc__ or "")
    options.add_argument("--overload", type=float, help="seconds at 3 x capacity (default: 60; quick: 10)")
    options.add_argument("--soak", type=float, help="minutes at 0.8 x capacity (default: 10; quick: 0.5)")
    options.add_argument("--model", default=_MODEL, choices=graphs.KNOWN, help="default: %(default)s")
    chosen = options.parse_args()
    require_wrk()
    seconds = chosen.overload if chosen.overload is not None else (10.0 if chosen.quick else 60.0)
    minutes = chosen.soak if chosen.soak is not None else (0.5 if chosen.quick else 10.0)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="lepton-serving-load-") as name:
        folder = Path(name)
        model = graphs.build(chosen.model, folder)
        path, request = ours.PATH.format(name=model.name), WIRES["v2 binary"].ask(model, model.samples(1)[0])
        server = ours.begin(folder / "home", model)
        try:
            server.wait(path, request)
            capacity, each = _capacity(server, path, request, folder)
            if seconds:
                figures |= {f"overload_{k}": v for k, v in overload(server, path, request, capacity, seconds).items()}
                server.settle()
                again, each_again = _capacity(server, path, request, folder)
                figures |= {"capacity_before": capacity, "capacity_after": again}
                capacity = max(capacity, again)  # on a machine with other work, the better is nearer to the truth
                figures["capacity_cpu_us_an_answer"] = min(each, each_again)
            if minutes:
                figures |= {f"soak_{k}": v for k, v in soak(server, path, request, capacity, minutes).items()}
        finally:
            server.stop()
    found = ratios(figures, capacity)
    aims: dict[str, dict[str, object]] = {}
    for name, value in found.items():
        if name in _AT_LEAST:
            aims[name] = {"aim": f">= {_AT_LEAST[name]:g}", "met": bool(value >= _AT_LEAST[name])}
        elif name in _AT_MOST:
            aims[name] = {"aim": f"<= {_AT_MOST[name]:g}", "met": bool(value <= _AT_MOST[name])}
    report(
        "serving_load" if chosen.model == _MODEL else f"serving_load-{chosen.model}",
        ratios=found,
        figures={"capacity": capacity, "overload_s": seconds, "soak_minutes": minutes, **figures},
        header=["what", "value"],
        rows=[["capacity, answers a second", capacity], *([name, value] for name, value in figures.items())],
        quick=chosen.quick,
        as_json=chosen.json,
        aims=aims,
    )


def ratios(figures: dict[str, float], capacity: float) -> dict[str, float]:
    """What is asked of a server."""
    found = {}
    if "overload_goodput" in figures:
        found = {
            "overload_goodput_vs_capacity": figures["overload_goodput"] / capacity,
            "overload_yield": figures["capacity_cpu_us_an_answer"] / figures["overload_cpu_us_an_answer"],
            "overload_refusal_vs_answer": figures["overload_refusal_p50_ms"] / figures["overload_calm_p50_ms"],
            "overload_accepted_p99_vs_1_second": figures["overload_accepted_p99_ms"] / 1e3,
            "overload_recovery_vs_2_seconds": figures["overload_recovery_s"] / 2,
        }
    if "soak_last_mib" in figures:
        found["soak_growth"] = figures["soak_last_mib"] / figures["soak_middle_mib"]
        found["soak_failed"] = figures["soak_failed_share"]
    return found


if __name__ == "__main__":
    main()
