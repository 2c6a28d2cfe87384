"""`python -m lepton_tasks.training.worker JOB [--processes N]`: run one training in its own process.

With N > 1 this process is torchrun's agent, and each rank is again this module, in a process the agent starts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from lepton_tasks.core.environment import Training
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.heap import retain_freed_memory
from lepton_tasks.core.lifetime import PARENT, die_with
from lepton_tasks.core.store import write_json
from lepton_tasks.training import prepared
from lepton_tasks.training.job import Job
from lepton_tasks.training.node import ADDRESS, JOINS

_KEPT = 1 << 30  # bytes of the tensors of a step that the next step takes again


def main(arguments: list[str] | None = None) -> int:
    """Train; returns 0, or 1 with `Job.failure` written."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == [prepared.OPTION]:
        arguments = _told()
        if arguments is None:
            return 0
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.worker", description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of a single process (default: OMP_NUM_THREADS)")
    options = parser.parse_args(arguments)
    # Torchrun puts each rank into a session of its own, so that no signal to a process group reaches it.
    die_with(int(os.environ.get(PARENT) or os.getppid()), signal.SIGKILL)
    os.environ[PARENT] = str(os.getpid())
    job = Job.model_validate_json(options.job.read_text())
    if job.outcome.exists():  # an earlier attempt ended well, but its caller did not
        return 0
    if "RANK" not in os.environ and (options.processes > 1 or job.machines.nodes > 1):
        return _agent(options.job, options.processes, job.machines)
    if job.failure.exists():  # started again, as after a lost process; but what failed would fail again
        return 1
    retain_freed_memory(_KEPT)
    import torch

    from lepton_tasks.training.fit import fit

    if options.threads:  # a fork of the stage host can be told in no other way: OpenMP read its variables long ago
        torch.set_num_threads(options.threads)
    try:
        fit(job)
    except LeptonError as error:
        if os.environ.get("RANK", "0") == "0":  # the others' errors follow from its own
            write_json(job.failure, error.to_dict())
        return 1
    return 0


def _told() -> list[str] | None:
    """Import what a training needs, then wait for the arguments; None if there will be none."""
    die_with(int(os.environ.get(PARENT) or os.getppid()), signal.SIGKILL)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback of a training that never was
    retain_freed_memory(_KEPT)
    import lepton_tasks.training.fit  # noqa: F401 - the rest of this process has it from here

    line = sys.stdin.readline()
    signal.signal(signal.SIGINT, handler)
    return list(json.loads(line)) if line else None


def _agent(job: Path, processes: int, machines: Training) -> int:
    """Start the ranks of this machine, and all of them again from the last state if one is lost."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Torch 2.13 keeps one store for all restarts, in which the ranks then find the addresses of those that are gone.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    arguments = [
        *_meeting(job, machines),
        f"--nproc-per-node={processes}",
        f"--max-restarts={machines.restarts}",
        "--monitor-interval=0.5",
        f"--log-dir={job.parent / 'torchrun'}",  # its default is a folder in /tmp that a killed run leaves there
        *("-m", "lepton_tasks.training.worker", str(job)),
    ]
    try:
        run.main(arguments)
    except (ChildFailedError, SignalException):  # the ranks have given their own account
        return 1
    return 0


def _meeting(job: Path, machines: Training) -> list[str]:
    """Torchrun's options that say where the machines find each other."""
    if machines.nodes == 1:
        return ["--standalone"]
    joins = JOINS in os.environ
    address = os.environ.get(ADDRESS) or str(machines.meeting_point).partition(":")[0]
    # Gloo and NCCL would take the address of the host's name, which is often that of the loopback.
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, _interface(address))
    return [
        f"--nnodes={machines.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={machines.meeting_point}",
        f"--rdzv-id={job.parent.name}",
        f"--rdzv-conf=is_host={int(not joins)}",
        f"--local-addr={address}",
    ]


def _interface(address: str) -> str:
    """The network interface that has the address; raises `ConfigError` if none has."""
    import socket

    import psutil

    wanted = socket.gethostbyname(address)
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == wanted for found in addresses):
            return str(name)
    raise ConfigError(
        f"no network interface of this machine has the address {wanted}.",
        where="training.rendezvous",
        fix="Give the address of the machine that the stage runs on.",
    )


if __name__ == "__main__":
    sys.exit(main())
