"""One server in a process of its own: started, waited for, asked, weighed, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from benchmarks.served.graphs import Model
from benchmarks.served.wire import Request, Wire, ask

_READY_SECONDS, _STOP_SECONDS, _SETTLE_SECONDS, _REST_SECONDS = 90, 10, 20, 0.1


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that answers for one model, with all its children.

    Args:
        command: What is run.
        port: Where it will listen, on 127.0.0.1.
        folder: Where it works and logs.
        variables: Added to the environment.

    Attributes:
        most_mib: The most memory that it had when it rested.
    """

    def __init__(self, command: Sequence[str], port: int, folder: Path, variables: Mapping[str, str]) -> None:
        self.port, self.log = port, folder / "server.log"
        self.most_mib = 0.0
        self.began = time.perf_counter()
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **variables},
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                process_group=0,  # of its own, so that nothing it starts outlives it
            )

    def wait(self, path: str, request: Request | None = None) -> float:
        """Seconds from the start to the first good answer to `request`, or to a plain GET.

        Raises:
            RuntimeError: it ended, or did not answer in time; its last words are told.
        """
        while time.perf_counter() - self.began < _READY_SECONDS and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if ask(self.port, path, request)[0] == 200:
                    return time.perf_counter() - self.began
            time.sleep(0.01)
        words = self.log.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"it did not answer: {' | '.join(words[-3:])}")

    def settle(self) -> None:
        """Wait until it rests: wrk does not wait for its last answers, and the next server would pay for them."""
        deadline = time.perf_counter() + _SETTLE_SECONDS
        before = self.cpu_seconds()
        while time.perf_counter() < deadline:
            time.sleep(_REST_SECONDS)
            now = self.cpu_seconds()
            if now - before <= _REST_SECONDS / 4:
                break
            before = now
        self.most_mib = max(self.most_mib, self._memory_mib())

    def _memory_mib(self) -> float:
        """Memory of all its processes. What they share counts once: of forked ones pages, of all of them files."""
        found = [_memory_kib(process.pid) for process in self._family()]
        return (sum(own for own, _ in found) + max(files for _, files in found)) / 1024

    def resident_mib(self) -> float:
        """Memory resident now."""
        return sum(process.memory_info().rss for process in self._family()) / 2**20

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self._family()))

    def _family(self) -> list[psutil.Process]:
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]

    def stop(self) -> None:
        """End it and what it started."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _memory_kib(pid: int) -> tuple[int, int]:
    """A process's own memory, with its part of what it shares with others, and that of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return 0, 0
    told = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    files = next(int(line.split()[1]) for line in status if line.startswith("RssFile:"))
    return told["Pss_Anon"] + told["Pss_Shmem"], files


def check(server: Server, path: str, wire: Wire, model: Model, expected: Mapping[int, np.ndarray]) -> None:
    """Compare answers to different samples, asked eight at a time, with ONNX Runtime's.

    Args:
        server: Who answers.
        path: Of the URL.
        wire: The form.
        model: What is asked.
        expected: Number of a sample of ``model.samples(len(expected))`` -> ONNX Runtime's row.

    Raises:
        RuntimeError: an answer is another, or none.
    """
    samples = model.samples(len(expected))

    def compare(i: int) -> None:
        status, headers, body = ask(server.port, path, wire.ask(model, samples[i]))
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:200]!r}")
        row = wire.read(model, headers, body)
        if row.shape != expected[i].shape or not np.allclose(row, expected[i], rtol=1e-4, atol=1e-6):
            raise RuntimeError(f"sample {i}: {row[:4]} instead of {expected[i][:4]}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compare, expected))
