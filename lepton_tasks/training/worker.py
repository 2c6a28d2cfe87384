"""`python -m lepton_tasks.training.worker JOB [--processes N]`: run one training in its own process.

With N > 1 this process is torchrun's agent, which runs this module in one child process per rank.
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

_KEPT = 1 << 30  # bytes of a step's tensors that the next step reuses


def main(arguments: list[str] | None = None) -> int:
    """Train; returns 0, or 1 with `Job.failure` written."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == [prepared.OPTION]:
        arguments = _read_arguments()
        if arguments is None:
            return 0
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.worker", description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of a single process (default: OMP_NUM_THREADS)")
    options = parser.parse_args(arguments)
    # Torchrun starts each rank in its own session, out of reach of process-group signals.
    die_with(int(os.environ.get(PARENT) or os.getppid()), signal.SIGKILL)
    os.environ[PARENT] = str(os.getpid())
    job = Job.model_validate_json(options.job.read_text())
    if job.outcome.exists():  # an earlier attempt succeeded, but its caller died
        return 0
    if "RANK" not in os.environ and (options.processes > 1 or job.machines.nodes > 1):
        return _agent(options.job, options.processes, job.machines)
    if job.failure.exists():  # restarted after a lost process, but the failure would recur
        return 1
    retain_freed_memory(_KEPT)
    import torch

    from lepton_tasks.training.fit import fit

    if options.threads:  # needed in a fork of the stage host, where OpenMP has already read its variables
        torch.set_num_threads(options.threads)
    try:
        fit(job)
    except LeptonError as error:
        if os.environ.get("RANK", "0") == "0":  # the others' errors result from its own
            write_json(job.failure, error.to_dict())
        return 1
    return 0


def _read_arguments() -> list[str] | None:
    """Import libraries, then wait for the arguments; None if standard input closes."""
    die_with(int(os.environ.get(PARENT) or os.getppid()), signal.SIGKILL)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback before a training starts
    retain_freed_memory(_KEPT)
    import lepton_tasks.training.fit  # noqa: F401 - cached for the rest of this process

    line = sys.stdin.readline()
    signal.signal(signal.SIGINT, handler)
    return list(json.loads(line)) if line else None


def _agent(job: Path, processes: int, machines: Training) -> int:
    """Start the ranks of this machine; restart all from the last checkpoint if one is lost."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Torch 2.13 reuses one store for all restarts, where ranks would find the addresses of dead ones.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    arguments = [
        *_meeting(job, machines),
        f"--nproc-per-node={processes}",
        f"--max-restarts={machines.restarts}",
        "--monitor-interval=0.5",
        f"--log-dir={job.parent / 'torchrun'}",  # default: a folder in /tmp that a killed run leaves behind
        *("-m", "lepton_tasks.training.worker", str(job)),
    ]
    try:
        run.main(arguments)
    except (ChildFailedError, SignalException):  # reported by the ranks themselves
        return 1
    return 0


def _meeting(job: Path, machines: Training) -> list[str]:
    """Torchrun's rendezvous options."""
    if machines.nodes == 1:
        return ["--standalone"]
    joins = JOINS in os.environ
    address = os.environ.get(ADDRESS) or str(machines.meeting_point).partition(":")[0]
    # Gloo and NCCL default to the address of the host name, often the loopback.
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
