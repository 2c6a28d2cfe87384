"""Start a training in its own process and wait for it. Imports neither torch nor Lightning."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lepton_tasks.core import stage_host_client
from lepton_tasks.core.environment import Training
from lepton_tasks.core.errors import StageError, error_from_dict
from lepton_tasks.core.lifetime import PARENT
from lepton_tasks.core.store import write_json
from lepton_tasks.training import prepared
from lepton_tasks.training.elsewhere import Elsewhere
from lepton_tasks.training.job import Job

# A step and a checkpoint take far less; the stage's own caller waits longer before it sends SIGKILL.
_GRACE_SECONDS = 20.0
_POLL_SECONDS = 0.2

Process = subprocess.Popen[bytes] | stage_host_client.HostedProcess | Elsewhere


@contextlib.contextmanager
def training(job: Job, *, threads: int | None = None, call: Path | None = None) -> Iterator[Process]:
    """Run a training process; it and all its children have ended on exit from the context.

    Args:
        job: The training.
        threads: Threads per process; None divides all cores.
        call: Call file for other nodes, if any; if they are pods, this machine does not train.
    """
    write_json(job.file, job.model_dump(mode="json"))
    job.failure.unlink(missing_ok=True)
    process = _started(job, threads) if call is None or job.machines.kubernetes is None else Elsewhere(job, call)
    with _forward_signals(process):
        try:
            yield process
        finally:
            end(process)


def prepare(devices: int, machines: Training) -> None:
    """Pre-start a worker for a training on these devices; see `training.prepared`."""
    if devices == 1 and machines.nodes == 1:
        prepared.prepare(_environment())


def _started(job: Job, threads: int | None) -> Process:
    devices = job.train.devices
    arguments = [str(job.file), f"--processes={devices}"]
    environment = _environment()
    if devices > 1 or job.machines.nodes > 1:
        environment.setdefault("OMP_NUM_THREADS", str(threads or max(1, cores() // devices)))
        return subprocess.Popen([*prepared.WORKER, *arguments], env=environment)
    if threads or "OMP_NUM_THREADS" not in environment:
        arguments.append(f"--threads={threads or cores()}")
    return (
        prepared.take(arguments, environment)
        or stage_host_client.start([*prepared.WORKER, *arguments], environment=environment, grace=0)
        or subprocess.Popen([*prepared.WORKER, *arguments], env=environment)
    )


def _environment() -> dict[str, str]:
    environment = {**os.environ, PARENT: str(os.getpid())}
    # Spins of a waiting thread before it sleeps. GNU OpenMP's default of 300,000 starves other processes (an epoch of
    # 3 s took 80 s); 0 costs a third of the speed on an idle machine.
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    return environment


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def wait(job: Job, process: Process, on_epoch: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Wait for the end of a training; returns its outcome.

    Args:
        job: The training.
        process: The process from `training`.
        on_epoch: Called with each history row in order, including those of earlier attempts.

    Raises:
        LeptonError: as raised by the training.
        StageError: its process died.
    """
    seen = 0
    while True:
        ended = process.poll() is not None  # polled before reading, so that the last rows are not missed
        for row in job.rows()[seen:]:
            on_epoch(row)
            seen += 1
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    if job.outcome.exists():
        outcome: dict[str, Any] = json.loads(job.outcome.read_text())
        return outcome
    if job.failure.exists():
        raise error_from_dict(json.loads(job.failure.read_text()))
    status = process.wait()
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    raise StageError(
        f"the training process ended with {how}.",
        where="train",
        fix="Its last output is above. SIGKILL often means out of memory: lower train.batch_size. Run again to resume.",
    )


@contextlib.contextmanager
def _forward_signals(process: Process) -> Iterator[None]:
    """Forward SIGTERM and SIGINT to the training, which writes its state and exits."""

    def forward(number: int, frame: FrameType | None) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            last_resort = threading.Timer(_GRACE_SECONDS, process.kill)
            last_resort.daemon = True  # this process need not wait for it
            last_resort.start()
        else:  # the training has ended: handle the signal as without it
            signal.signal(number, before[signal.Signals(number)])
            os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signal handlers need the main thread; the training still dies with this process
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(process: Process) -> None:
    """Terminate a process, and kill it after the grace period."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
