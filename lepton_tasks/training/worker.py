"""`python -m lepton_tasks.training.worker JOB [--processes N]`: one training, in a process of its own.

With N > 1 this process is torchrun's agent, and each rank is again this module, in a process the agent starts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.store import write_json
from lepton_tasks.training.job import Job

PARENT = "LEPTON_TRAINING_PARENT"
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Train; returns 0, or 1 with `Job.failure` written."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.training.worker", description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    die_with_parent()
    job = Job.model_validate_json(options.job.read_text())
    if job.outcome.exists():  # an earlier attempt ended well, but its caller did not
        return 0
    if options.processes > 1:
        return _agent(options.job, options.processes)
    from lepton_tasks.training.fit import fit

    try:
        fit(job)
    except LeptonError as error:
        if os.environ.get("RANK", "0") == "0":  # the others' errors follow from its own
            write_json(job.failure, error.to_dict())
        return 1
    return 0


def die_with_parent() -> None:
    """End this process when its parent ends, however that happens.

    Torchrun puts each rank into a session of its own, so that no signal to a process group reaches it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get(PARENT)
    if parent is not None and os.getppid() != int(parent):  # it had ended before the line above
        sys.exit(1)
    os.environ[PARENT] = str(os.getpid())


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
