"""`python -m lepton_tasks.training.worker JOB [--processes N]`: one training, in a process of its own.

With N > 1 this process is torchrun's agent, and each rank is again this module, in a process the agent starts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.lifetime import PARENT, die_with
from lepton_tasks.core.store import write_json
from lepton_tasks.training.job import Job


def main(arguments: list[str] | None = None) -> int:
    """Train; returns 0, or 1 with `Job.failure` written."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.worker", description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of the one process; otherwise OMP_NUM_THREADS says so")
    options = parser.parse_args(arguments)
    # Torchrun puts each rank into a session of its own, so that no signal to a process group reaches it.
    die_with(int(os.environ.get(PARENT) or os.getppid()), signal.SIGKILL)
    os.environ[PARENT] = str(os.getpid())
    job = Job.model_validate_json(options.job.read_text())
    if job.outcome.exists():  # an earlier attempt ended well, but its caller did not
        return 0
    if options.processes > 1:
        return _agent(options.job, options.processes)
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


def _agent(job: Path, processes: int) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = [
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--log-dir={job.parent / 'torchrun'}",  # its default is a folder in /tmp that a killed run leaves there
        *("-m", "lepton_tasks.training.worker", str(job)),
    ]
    try:
        run.main(arguments)
    except (ChildFailedError, SignalException):  # the ranks have given their own account
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
