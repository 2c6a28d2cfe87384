"""Write on a run that has ended, over MLflow's REST API, without the three-second MLflow import."""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from lepton_tasks.tracking.registry import ask, fetch

_METRICS_A_REQUEST = 1000  # of MLflow
_PROXIED = "mlflow-artifacts:/"


@dataclasses.dataclass(frozen=True)
class Point:
    """Figures of one moment: `time` in Unix seconds, `step` counts the moments, `figures` by metric."""

    time: float
    step: int
    figures: Mapping[str, float]


def log_points(tracking_url: str, run_id: str, points: Sequence[Point]) -> None:
    """Log figures as metrics over time; what is logged again is there once.

    Args:
        tracking_url: Address of MLflow.
        run_id: The run.
        points: The figures.

    Raises:
        FileNotFoundError: there is no such run, or it was deleted.
        UnavailableError: MLflow does not answer.
    """
    # Without the logged model's id: its page lists each of its values in a row of its own, so hundreds a day.
    metrics = [
        {"key": key, "value": value, "timestamp": round(point.time * 1000), "step": point.step}
        for point in points
        for key, value in point.figures.items()
    ]
    for start in range(0, len(metrics), _METRICS_A_REQUEST):
        some = metrics[start : start + _METRICS_A_REQUEST]
        ask(tracking_url, "runs/log-batch", body={"run_id": run_id, "metrics": some}, method="POST")


def upload(tracking_url: str, run_id: str, files: Mapping[str, Path]) -> None:
    """Store files as artifacts of a run, by their paths there; what has the same path gives way.

    Raises: as `log_points` does.
    """
    uri = str(ask(tracking_url, "runs/get", {"run_id": run_id})["run"]["info"]["artifact_uri"])
    if not uri.startswith(_PROXIED):  # MLflow leaves it to its clients where the files go
        from lepton_tasks.tracking.mlflow import Tracker

        for path, file in files.items():
            Tracker(tracking_url).files(run_id, file, at=str(Path(path).parent))
        return
    folder = f"{tracking_url.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{uri.removeprefix(_PROXIED).lstrip('/')}"
    for path, file in files.items():
        fetch(urllib.request.Request(f"{folder}/{path}", file.read_bytes(), method="PUT")).close()
