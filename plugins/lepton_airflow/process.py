"""Run `python -m lepton_tasks.stages` as a child process that never outlives its task."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from lepton_tasks.core import stage_host_client
from lepton_tasks.core.artifacts import ArtifactRef, parse_ref
from lepton_tasks.core.errors import StageError, error_from_dict
from lepton_tasks.core.lifetime import die_with

_GRACE_SECONDS = 3.0  # Airflow itself waits 5


class StageProcess:
    """One stage's process: forked by the stage host if there is one, otherwise a child of the task.

    Args:
        stage: The stage's name.
        use_case: Path of the YAML.
        overrides: Values by dotted key.
        run_id: Name of the run.
        force: Run the stage even if nothing changed.
    """

    def __init__(
        self, stage: str, use_case: Path, overrides: Mapping[str, Any], *, run_id: str, force: bool = False
    ) -> None:
        self.stage = stage
        self._command = [sys.executable, "-m", "lepton_tasks.stages", stage]
        self._command += ["--use-case", str(use_case), "--run-id", run_id, *(["--force"] if force else [])]
        for key, value in overrides.items():
            self._command += ["--set", f"{key}={json.dumps(value)}"]
        self._process: subprocess.Popen[bytes] | stage_host_client.HostedProcess | None = None

    def run(self, refs: Mapping[str, ArtifactRef], *, on_line: Callable[[str], None]) -> ArtifactRef:
        """Run the stage to its end and pass on every line that it prints.

        Raises:
            LeptonError: from the stage; `StageError` if it ended without a result.
        """
        with tempfile.TemporaryDirectory(prefix="lepton-stage-") as folder:
            inputs, result = Path(folder, "refs.json"), Path(folder, "result.json")
            inputs.write_text(json.dumps({name: ref.model_dump() for name, ref in refs.items()}))
            lines, output = os.pipe()
            try:
                self._process = _start([*self._command, "--refs", str(inputs), "--result", str(result)], output)
            finally:
                os.close(output)
            try:
                with os.fdopen(lines, errors="replace") as stream:
                    for line in stream:
                        on_line(line.rstrip())
            finally:
                status = self._process.wait()
            return _outcome(self.stage, result, status)

    def end(self, grace: float = _GRACE_SECONDS) -> None:
        """End the process and its descendants: SIGTERM, `grace` seconds, SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        workers = _descendants(self._process.pid)
        deadline = time.monotonic() + grace
        self._process.terminate()
        for worker in workers:
            _signal(worker, signal.SIGTERM)
        # Not psutil's wait: it would take the exit status that `run` is to read.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        _, alive = psutil.wait_procs(workers, timeout=max(0.0, deadline - time.monotonic()))
        self._process.kill()
        for worker in alive:
            _signal(worker, signal.SIGKILL)


def _start(command: list[str], output: int) -> subprocess.Popen[bytes] | stage_host_client.HostedProcess:
    environment = _environment()
    return stage_host_client.start(
        command, environment=environment, grace=_GRACE_SECONDS, output=output
    ) or subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        # In the task's process group, so that it receives the group's signals. Two system calls, no lock.
        preexec_fn=functools.partial(die_with, os.getpid()),
    )


def _outcome(stage: str, result: Path, status: int) -> ArtifactRef:
    if not result.exists():
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        hint = " The kernel does that when memory runs out." if status == -signal.SIGKILL else ""
        raise StageError(
            f"the stage's process {how} and left no result.{hint}", where=stage, fix="See the lines above."
        )
    outcome = json.loads(result.read_text())
    if outcome["error"] is not None:
        raise error_from_dict(outcome["error"])
    return parse_ref(outcome["ref"])


def _environment() -> dict[str, str]:
    """Environment variables without Airflow's settings and secrets, which stages do not need."""
    return {k: v for k, v in os.environ.items() if not k.lstrip("_").startswith("AIRFLOW")}


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
