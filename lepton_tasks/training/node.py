"""`python -m lepton_tasks.training.node --address IP`: offer this machine to distributed trainings.

All machines share the state folder. The launcher of a multi-machine training writes a call file to
``run/trainings``; each node that finds one starts its worker processes, and ends them once the file is deleted.
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
"""Folder of calls in the state folder, one JSON file each: ``{"job": <path>}``."""

ADDRESS, JOINS = "LEPTON_NODE_ADDRESS", "LEPTON_NODE_JOINS"
"""Worker environment variables: this machine's address for the others; and that another machine is the host."""

_OPERATORS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_POLL_SECONDS = 0.5
_NAME_SECONDS = 300.0

_log = logging.getLogger("lepton.node")


@contextlib.contextmanager
def called(root: Path, job: Path, run_id: str) -> Iterator[Path]:
    """Call other nodes to a training within the context; yields the call file."""
    call = root / CALLS / f"{run_id}.json"
    call.parent.mkdir(parents=True, exist_ok=True)
    write_json(call, {"job": str(job)})
    try:
        yield call
    finally:
        call.unlink(missing_ok=True)
        sign_of_life(call).unlink(missing_ok=True)


def serve(root: Path, address: str, *, once: bool = False) -> bool:
    """Join every called training, oldest first, until stopped.

    Args:
        root: The state folder.
        address: This machine's address for the others.
        once: Return after the first.

    Returns:
        Whether that one has ended or its call was withdrawn.
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
    """Time and file of each call, oldest first, so that all nodes join the same one."""
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
    # Kubeflow's operator sets a rank per pod, but here a pod is a machine with several ranks.
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
            process.wait(_POLL_SECONDS * 4)  # it ends at about the same time as the call
    finally:
        end(process)
    _log.info("left %s (status %s)", call.stem, process.returncode)
    return job.outcome.exists() or job.failure.exists() or not call.exists()


def _hosts(machines: Training, address: str) -> bool:
    """Whether this node hosts the rendezvous; waits for the first pod's name to resolve."""
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
