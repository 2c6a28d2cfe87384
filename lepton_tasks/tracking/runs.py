"""Add metrics and artifacts to finished runs over MLflow's REST API, without the three-second MLflow import."""

from __future__ import annotations

import dataclasses
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from lepton_tasks.tracking.registry import fetch, request_json

_BATCH = 1000  # MLflow's limit
_PROXIED = "mlflow-artifacts:/"


@dataclasses.dataclass(frozen=True)
class Point:
    """Metric values at one time: `time` in Unix seconds, `step` counts from point to point, `figures` by metric."""

    time: float
    step: int
    figures: Mapping[str, float]


def log_points(tracking_url: str, run_id: str, points: Sequence[Point]) -> None:
    """Log metrics over time; idempotent.

    Args:
        tracking_url: Address of MLflow.
        run_id: The run.
        points: The values.

    Raises:
        FileNotFoundError: there is no such run, or it was deleted.
        UnavailableError: MLflow does not answer.
    """
    # Without the logged model's id: its page has one row per value, hundreds a day.
    metrics = [
        {"key": key, "value": value, "timestamp": round(point.time * 1000), "step": point.step}
        for point in points
        for key, value in point.figures.items()
    ]
    for start in range(0, len(metrics), _BATCH):
        batch = metrics[start : start + _BATCH]
        request_json(tracking_url, "runs/log-batch", body={"run_id": run_id, "metrics": batch}, method="POST")


def upload(tracking_url: str, run_id: str, files: Mapping[str, Path]) -> None:
    """Upload files as artifacts of a run, by artifact path; existing ones are replaced.

    Raises: as `log_points` does.
    """
    uri = str(request_json(tracking_url, "runs/get", {"run_id": run_id})["run"]["info"]["artifact_uri"])
    if not uri.startswith(_PROXIED):  # clients access the artifact store directly
        from lepton_tasks.tracking.mlflow import Tracker

        for path, file in files.items():
            Tracker(tracking_url).files(run_id, file, at=str(Path(path).parent))
        return
    folder = f"{tracking_url.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{uri.removeprefix(_PROXIED).lstrip('/')}"
    for path, file in files.items():
        fetch(urllib.request.Request(f"{folder}/{path}", file.read_bytes(), method="PUT")).close()
