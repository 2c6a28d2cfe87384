"""Record a training in MLflow, asynchronously; tracking failures do not stop the training."""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ArtifactError, LeptonError, UnavailableError
from lepton_tasks.core.store import write_json
from lepton_tasks.tracking.inputs import DataInput
from lepton_tasks.tracking.mlflow import Tracker


class TrainingRecord:
    """Logs a training to its MLflow run, in order, from a background thread.

    When the server stops answering, the rest is queued and sent by `finish`.

    Args:
        tracker: The server.
        file: Stores the run and its progress, so that a killed training resumes in the same run.
        log: Logger for a single warning that the server is away.
    """

    def __init__(self, tracker: Tracker, file: Path, log: logging.Logger) -> None:
        self._tracker, self._file, self._log = tracker, file, log
        self._pending: collections.deque[Callable[[], None]] = collections.deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._away = False
        self._state: dict[str, Any] = {"epochs": 0}
        self.run_id = self.experiment_id = ""

    def start(self, experiment: str, run_name: str, *, tags: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """Start the run, or resume an earlier attempt's.

        Raises:
            UnavailableError: the server does not answer.
        """
        if self._file.exists():
            self._state = json.loads(self._file.read_text())
            try:
                self._began(self._tracker.start(experiment, run_name, tags, resume=self._state["run_id"]))
                return
            except ArtifactError:  # another server, or the run was deleted
                self._state = {"epochs": 0}
        self._began(self._tracker.start(experiment, run_name, tags))
        self._tracker.params(self.run_id, params)
        self._remember()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log one row of the history, unless an earlier attempt did."""
        step = int(row["epoch"])
        if step < self._state["epochs"]:
            return
        values = {key: value for key, value in row.items() if key not in ("epoch", "seconds")}

        def send() -> None:
            self._tracker.metrics(self.run_id, values, step)
            self._state["epochs"] = step + 1
            self._remember()

        self._later(send)

    def inputs(self, inputs: Sequence[DataInput]) -> None:
        """Log the run's input data."""
        self._later(lambda: self._tracker.inputs(self.run_id, inputs))

    def files(self, path: Path, at: str | None = None) -> None:
        """Upload a file or a folder to the folder `at` of the run."""
        self._later(lambda: self._tracker.files(self.run_id, path, at))

    def finish(self) -> None:
        """Send the queue and close the run; raises `UnavailableError` if the server is still away."""
        self._thread.shutdown(wait=True)
        self._drain()
        self._tracker.end(self.run_id, "FINISHED")

    def fail(self) -> None:
        """Try to send the queue and mark the run as failed; never raises."""
        self._thread.shutdown(wait=True)
        try:
            self._drain()
            self._tracker.end(self.run_id, "FAILED")
        except LeptonError as error:
            self._log.warning("the MLflow run %s stays open: %s", self.run_id, error)

    def _began(self, ids: tuple[str, str]) -> None:
        self.run_id, self.experiment_id = ids

    def _remember(self) -> None:
        self._state["run_id"] = self.run_id
        write_json(self._file, self._state)

    def _later(self, action: Callable[[], None]) -> None:
        self._pending.append(action)
        self._thread.submit(self._try_to_drain)

    def _try_to_drain(self) -> None:
        if self._away:
            return
        try:
            self._drain()
        except LeptonError as error:
            self._away = True
            what = "does not answer" if isinstance(error, UnavailableError) else "refuses"
            self._log.warning("MLflow %s; training continues, and the rest is sent at its end: %s", what, error)

    def _drain(self) -> None:
        while self._pending:
            self._pending[0]()
            self._pending.popleft()
