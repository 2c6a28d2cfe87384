"""Our server beside other Python model servers and beside ONNX Runtime alone, on the same four ONNX files.

`python -m benchmarks.serving [--quick] [--json] [--peers mlserver,litserve] [--models cnn,lstm] [--cache FOLDER]`

Every server is started on 127.0.0.1 with one model, answers 32 samples as ONNX Runtime does, and is then loaded in turn
with the others, several times: by one request at a time, each of them timed, and by wrk (one thread; 16 and 64
connections); medians count. Client and servers share the machine. Peers that are no dependency of the project are
installed by uv, each into an environment of its own in the cache folder; one that does not install or start is named
in the table. With --quick: one light peer, one round.

Ratios of good answers a second, at 64 connections (larger is better):
    <model>_binary_vs_onnxruntime, <model>_json_vs_onnxruntime   : ONNX Runtime alone, batch 1, one thread
    <model>_one_vs_onnxruntime, <model>_one_json_vs_...          the same, of one process of ours, binary and JSON
    <model>_json_vs_<peer>, <model>_json_vs_best_server          : a peer; the best of the ready-made servers
Of latency, memory and time (smaller is better):
    <model>_p99_c1_vs_echo      p99 at one connection : p50 of ONNX Runtime + echo
    <model>_p99_c1_vs_p99_of_echo   : its p99
    <model>_p99_awake_vs_echo   the same while no core of the machine is idle, so that none has to be woken
    <model>_p99_c64_vs_best     p99 at 64 connections, JSON : the best peer's
    memory_vs_<peer>            memory with the CNN, most after a load
    ready_vs_2_seconds          from the start to the first answer, the slowest model
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.harness import parser, report, tell
from benchmarks.served import graphs, ours
from benchmarks.served.aims import aims, ratios
from benchmarks.served.awake import awake
from benchmarks.served.page import table, write_page
from benchmarks.served.peers import PEERS, install, start, url_path, version
from benchmarks.served.processes import Server, check
from benchmarks.served.results import Limit, Results, ServerResult
from benchmarks.served.sequential import sequential
from benchmarks.served.wire import WIRES, Request
from benchmarks.served.wrk import Load, press, require_wrk

CONNECTIONS = (1, 16, 64)
# Options of our server -> its subjects, and the form of their requests. By itself it has two processes on two cores.
OURS: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    ((), {"ours_json": "v2", "ours_binary": "v2 binary"}),
    (("--processes", "1"), {"ours_one_json": "v2", "ours_one": "v2 binary"}),
)
_SAMPLES = 32
_SEQUENTIAL_SECONDS = 2  # at one connection: thousands of requests, so that dozens lie above the p99
_TURNS, _LONGEST_SECONDS = 8, 5
_LIGHT = ("echo", "starlette")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lepton" / "peers"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A server under load, with one form of requests."""

    name: str
    server: Server
    path: str
    request: Request


class Bench:
    """Puts the servers of one model under load, one after the other.

    Args:
        folder: For packages, state folders and logs.
        pythons: Interpreters of the installed peers, by name.
        rounds: How often each is measured.
        seconds: Duration of one measurement by wrk.
        results: Where measurements are collected.
    """

    def __init__(self, folder: Path, pythons: dict[str, Path], rounds: int, seconds: int, results: Results) -> None:
        self.folder, self.pythons, self.results = folder, pythons, results
        self.rounds, self.seconds = rounds, seconds

    def model(self, name: str) -> None:
        """Start all servers for one model and measure them in turn."""
        model = graphs.build(name, self.folder)
        session = _session(model.path)
        samples = model.samples(_SAMPLES)
        expected = {i: session.run([model.output], {model.input: samples[i : i + 1]})[0][0] for i in range(_SAMPLES)}
        with ExitStack() as stack:
            subjects = self._ours(model, expected, stack) + self._peers(model, expected, stack)
            loads: dict[str, dict[int, list[Load]]] = {s.name: {c: [] for c in CONNECTIONS} for s in subjects}
            woken: dict[str, list[Load]] = {s.name: [] for s in subjects}
            limits: list[Limit] = []
            for number in range(self.rounds):
                limits.append(Limit(*(_rate(session, model, size, 0.4 * self.seconds) for size in (1, 8))))
                tell(f"{name}, ONNX Runtime, batch 1, {number + 1} of {self.rounds}", limits[-1].one)
                for subject in subjects:
                    load = None
                    for c in CONNECTIONS:
                        load = self._press(subject, c, load)
                        loads[subject.name][c].append(load)
                    rates = [loads[subject.name][c][-1].rate for c in CONNECTIONS]
                    tell(f"{name}, {subject.name}, {number + 1} of {self.rounds}, c = 64", rates[-1])
                with awake():
                    for subject in subjects:
                        woken[subject.name].append(self._press(subject, 1, None))
            for subject in subjects:
                self.results.servers[name, subject.name].awake = _median(woken[subject.name])
                self.results.servers[name, subject.name].peak_mib = subject.server.most_mib
        self.results.limits[name] = Limit(*(statistics.median(values) for values in zip(*limits, strict=True)))
        for subject_name, by_connections in loads.items():
            self.results.servers[name, subject_name].loads = {c: _median(v) for c, v in by_connections.items()}

    def _press(self, subject: Subject, connections: int, before: Load | None) -> Load:
        """Measure a server. `before` is its load with fewer connections: a slow server is measured longer, so that its
        first answers, which are all late, count less."""
        port, path, request = subject.server.port, subject.path, subject.request
        if connections == 1:
            load = sequential(port, path, request, seconds=_SEQUENTIAL_SECONDS)
        else:
            turns = connections / max(before.rate, 1) if before else 0.0  # seconds until each connection has one answer
            seconds = self.seconds + min(_LONGEST_SECONDS, round(_TURNS * turns))
            load = press(port, path, request, self.folder, connections=connections, seconds=seconds)
        subject.server.settle()
        return load

    def _ours(self, model: graphs.Model, expected: dict[int, np.ndarray], stack: ExitStack) -> list[Subject]:
        path, sample = ours.PATH.format(name=model.name), model.samples(1)[0]
        subjects = []
        for options, forms in OURS:
            home = self.folder / "ours" / "-".join([model.name, *options])
            server = ours.begin(home, model, *options)
            stack.callback(server.stop)
            ready = server.wait(path, WIRES["v2"].ask(model, sample))
            tell(f"{model.name}, ours {' '.join(options)}, ready after s", ready)
            for name, wire in forms.items():
                check(server, path, WIRES[wire], model, expected)
                subjects.append(Subject(name, server, path, WIRES[wire].ask(model, sample)))
                self.results.servers[model.name, name] = ServerResult(ready_seconds=ready)
        return subjects

    def _peers(self, model: graphs.Model, expected: dict[int, np.ndarray], stack: ExitStack) -> list[Subject]:
        subjects = []
        for name, python in self.pythons.items():
            peer = PEERS[name]
            wire, path = WIRES[peer.wire], url_path(peer, model)
            request = wire.ask(model, model.samples(1)[0])
            try:
                server = start(peer, python, model, self.folder / name / model.name)
                stack.callback(server.stop)
                ready = server.wait(path, request)
                check(server, path, wire, model, expected)
            except RuntimeError as error:
                self.results.absent[f"{name}, {model.name}"] = str(error)
                print(f"{model.name}, {name}: {error}", file=sys.stderr)
                continue
            tell(f"{model.name}, {name}, ready after s", ready)
            subjects.append(Subject(name, server, path, request))
            self.results.servers[model.name, name] = ServerResult(ready_seconds=ready)
        return subjects


def _session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime alone, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _rate(session: onnxruntime.InferenceSession, model: graphs.Model, size: int, seconds: float) -> float:
    """Samples a second that one thread infers, in batches of `size`."""
    feed, outputs = {model.input: model.samples(size)}, [model.output]
    session.run(outputs, feed)
    began, batches = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        session.run(outputs, feed)
        batches += 1
    return batches * size / spent


def _median(loads: list[Load]) -> Load:
    fields = [field.name for field in dataclasses.fields(Load)]
    return Load(**{field: statistics.median(getattr(load, field) for load in loads) for field in fields})


def _installed(names: list[str], cache: Path, results: Results) -> dict[str, Path]:
    pythons = {}
    for name in names:
        try:
            pythons[name] = install(PEERS[name], cache)
            results.versions[name] = version(PEERS[name], pythons[name])
        except RuntimeError as error:
            results.absent[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr)
    return pythons


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--peers", help=f"some of {','.join(PEERS)} (default: all)")
    options.add_argument("--models", help=f"some of {','.join(graphs.NAMES)} (default: all)")
    options.add_argument("--cache", type=Path, default=_CACHE, help="where peers are installed (default: %(default)s)")
    options.add_argument("--rounds", type=int, help="how often each server is measured (default: 5; quick: 1)")
    chosen = options.parse_args()
    chosen.peers = chosen.peers.split(",") if chosen.peers else list(_LIGHT if chosen.quick else PEERS)
    chosen.models = chosen.models.split(",") if chosen.models else list(graphs.NAMES)
    for said, known in ((chosen.peers, PEERS), (chosen.models, graphs.NAMES)):
        if wrong := [name for name in said if name not in known]:
            options.error(f"{wrong[0]!r} is none of {', '.join(known)}")
    return chosen


def main() -> None:
    """Measure, print, keep."""
    options = _options()
    require_wrk()
    results = Results(CONNECTIONS)
    pythons = _installed(options.peers, options.cache, results)
    with tempfile.TemporaryDirectory(prefix="lepton-serving-") as folder:
        rounds = options.rounds or (1 if options.quick else 5)
        bench = Bench(Path(folder), pythons, rounds, 1, results)
        for name in options.models:
            bench.model(name)
    found = ratios(results)
    header, rows = table(results)
    report(
        "serving",
        ratios=found,
        figures=results.figures(),
        header=header,
        rows=rows,
        quick=options.quick,
        as_json=options.json,
        aims=aims(found),
    )
    if not options.quick:
        write_page(results, found)


if __name__ == "__main__":
    main()
