"""`python -m lepton_tasks.training.node --address IP`: lend this machine to trainings that another one starts.

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
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lepton_tasks.core.environment import state_root
from lepton_tasks.core.lifetime import PARENT
from lepton_tasks.core.store import write_json
from lepton_tasks.training.launch import cores, end

CALLS = "run/trainings"
"""Folder of calls in the state folder: a JSON file a training, ``{"job": <path>}``."""

ADDRESS, JOINS = "LEPTON_NODE_ADDRESS", "LEPTON_NODE_JOINS"
"""Variables of the worker: this machine's address, as the others reach it; and that another machine started it all."""

_POLL_SECONDS = 0.5

_log = logging.getLogger("lepton.node")


@contextlib.contextmanager
def called(root: Path, job: Path, run_id: str) -> Iterator[None]:
    """While the block runs, other nodes are called to a training."""
    call = root / CALLS / f"{run_id}.json"
    call.parent.mkdir(parents=True, exist_ok=True)
    write_json(call, {"job": str(job)})
    try:
        yield
    finally:
        call.unlink(missing_ok=True)


def serve(root: Path, address: str, *, once: bool = False) -> None:
    """Take part in every training that calls, one after the other, until told to stop.

    Args:
        root: The state folder.
        address: This machine's, as the others reach it.
        once: Return after the first.
    """
    _log.info("waiting for trainings in %s", root / CALLS)
    done: set[tuple[str, int]] = set()
    while True:
        for call in sorted((root / CALLS).glob("*.json")):
            with contextlib.suppress(FileNotFoundError):
                key = (call.name, call.stat().st_mtime_ns)
                if key not in done:
                    done.add(key)
                    _take_part(call, Path(json.loads(call.read_text())["job"]), address)
                    if once:
                        return
        time.sleep(_POLL_SECONDS)


def _take_part(call: Path, job: Path, address: str) -> None:
    _log.info("joining %s", call.stem)
    processes = json.loads(job.read_text())["train"]["devices"]
    command = [sys.executable, "-m", "lepton_tasks.training.worker", str(job), f"--processes={processes}"]
    environment = {**os.environ, PARENT: str(os.getpid()), ADDRESS: address, JOINS: "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    process = subprocess.Popen(command, env=environment)
    try:
        while process.poll() is None and call.exists():
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS * 4)  # its end and the call's come at about the same time
    finally:
        end(process)
    _log.info("left %s (status %s)", call.stem, process.returncode)


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.node", description=__doc__)
    parser.add_argument("--address", required=True, help="this machine's address, as the others reach it")
    parser.add_argument("--once", action="store_true", help="end after the first training")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        serve(state_root(), options.address, once=options.once)
    return 0


if __name__ == "__main__":
    sys.exit(main())
