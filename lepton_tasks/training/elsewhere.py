"""Run a training on other machines and wait for it."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.store import write_json
from lepton_tasks.training.job import Job

_POLL_SECONDS = 0.5


def sign_of_life(call: Path) -> Path:
    """Heartbeat file, touched by the nodes while they run a call."""
    return call.with_suffix(".alive")


class Elsewhere:
    """Remote process, used like `subprocess.Popen`; ends with an outcome, a failure or a missed heartbeat.

    Args:
        job: The training.
        call: Call file for the nodes; deleting it stops them.
    """

    def __init__(self, job: Job, call: Path) -> None:
        self.returncode: int | None = None
        self._job, self._call = job, call
        self._life, self._seen = 0, time.monotonic()

    def poll(self) -> int | None:
        """The exit status, or None while the nodes train."""
        if self.returncode is None:
            if self._job.outcome.exists():
                self.returncode = 0
            elif self._job.failure.exists() or self._silent():
                self.returncode = 1
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait at most `timeout` seconds for the exit status; raises `subprocess.TimeoutExpired`."""
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(["nodes", str(self._call)], timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        """Stop the nodes after they write their state, whatever the signal."""
        self._call.unlink(missing_ok=True)

    def terminate(self) -> None:
        """Stop the nodes after they write their state."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Stop waiting for them."""
        self.terminate()
        self.returncode = self.poll() or -signal.SIGKILL

    def _silent(self) -> bool:
        """Whether the heartbeat has timed out; if so, write that as the failure."""
        pods = self._job.machines.kubernetes
        file = sign_of_life(self._call)
        life = file.stat().st_mtime_ns if file.exists() else 0
        if life != self._life:  # by this machine's clock: others may differ
            self._life, self._seen = life, time.monotonic()
        if pods is None or time.monotonic() - self._seen < pods.patience:
            return False
        error = UnavailableError(
            f"no pod has trained for {pods.patience:g} s.",
            where="training.kubernetes",
            fix="`python -m lepton_tasks.training.kubernetes | kubectl replace --force -f -` starts them; "
            f"`kubectl -n {pods.namespace} get pods` tells how they are.",
        )
        write_json(self._job.failure, error.to_dict())
        return True
