"""`python -m lepton_tasks.training.node --address IP`: offer this machine to distributed trainings.

Both see the same state folder. Where a training asks for several machines, its launcher leaves a call in
``run/trainings``; each node that finds one starts its share of the processes and ends them when the call is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lepton_tasks.core.environment import Training, state_root
from lepton_tasks.core.lifetime import PARENT
from lepton_tasks.core.store import write_json
from lepton_tasks.training.elsewhere import sign_of_life
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import cores, end

CALLS = "run/trainings"
"""Folder of calls in the state folder: a JSON file a training, ``{"job": <path>}``."""

ADDRESS, JOINS = "LEPTON_NODE_ADDRESS", "LEPTON_NODE_JOINS"
"""Variables of the worker: this machine's address, as the others reach it; and that another machine started it all."""

_OPERATORS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_POLL_SECONDS = 0.5
_NAME_SECONDS = 300.0

_log = logging.getLogger("lepton.node")


@contextlib.contextmanager
def called(root: Path, job: Path, run_id: str) -> Iterator[Path]:
    """While the block runs, other nodes are called to a training; gives the call."""
    call = root / CALLS / f"{run_id}.json"
    call.parent.mkdir(parents=True, exist_ok=True)
    write_json(call, {"job": str(job)})
    try:
        yield call
    finally:
        call.unlink(missing_ok=True)
        sign_of_life(call).unlink(missing_ok=True)


def serve(root: Path, address: str, *, once: bool = False) -> bool:
    """Take part in every training that calls, the oldest first, until told to stop.

    Args:
        root: The state folder.
        address: This machine's, as the others reach it.
        once: Return after the first.

    Returns:
        Whether that one came to its end, or nobody waits for it any more.
    """
    _log.info("waiting for training jobs in %s", root / CALLS)
    done: set[tuple[int, Path]] = set()
    while True:
        for key in _calls(root):
            with contextlib.suppress(FileNotFoundError):
                call = key[1]
                if key not in done:
                    done.add(key)
                    ended = _take_part(call, Path(json.loads(call.read_text())["job"]), address)
                    if once:
                        return ended
        time.sleep(_POLL_SECONDS)


def _calls(root: Path) -> list[tuple[int, Path]]:
    """Time and file of each call, the oldest first, so that all nodes follow the same one."""
    found = []
    for call in (root / CALLS).glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            found.append((call.stat().st_mtime_ns, call))
    return sorted(found)


def _take_part(call: Path, file: Path, address: str) -> bool:
    _log.info("joining %s", call.stem)
    job = Job.model_validate_json(file.read_text())
    processes = job.train.devices
    command = [sys.executable, "-m", "lepton_tasks.training.worker", str(file), f"--processes={processes}"]
    # Kubeflow's operator tells each pod its rank, but a pod here is a machine, and has ranks of its own.
    environment = {name: value for name, value in os.environ.items() if name not in _OPERATORS}
    environment |= {PARENT: str(os.getpid()), ADDRESS: address}
    if job.machines.kubernetes is None or not _hosts(job.machines, address):
        environment[JOINS] = "1"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    process = subprocess.Popen(command, env=environment)
    try:
        while process.poll() is None and call.exists():
            sign_of_life(call).touch()
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS * 4)  # its end and the call's come at about the same time
    finally:
        end(process)
    _log.info("left %s (status %s)", call.stem, process.returncode)
    return job.outcome.exists() or job.failure.exists() or not call.exists()


def _hosts(machines: Training, address: str) -> bool:
    """Whether the nodes meet at this one; waits for the name of the first pod, which is known once it runs."""
    if machines.nodes == 1:
        return True
    host = str(machines.meeting_point).partition(":")[0]
    until = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return socket.gethostbyname(host) == address
        except socket.gaierror:
            if time.monotonic() > until:
                raise
            time.sleep(_POLL_SECONDS)


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.node", description=__doc__)
    parser.add_argument("--address", required=True, help="this machine's address, as the others reach it")
    parser.add_argument("--once", action="store_true", help="end after the first training")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        return 0 if serve(state_root(), options.address, once=options.once) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
