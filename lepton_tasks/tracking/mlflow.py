"""Runs, model versions and aliases in MLflow. Every call raises `UnavailableError` if the server is down."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ArtifactError, UnavailableError
from lepton_tasks.tracking.inputs import DataInput
from lepton_tasks.tracking.registry import CHALLENGER as CHALLENGER
from lepton_tasks.tracking.registry import CHAMPION as CHAMPION
from lepton_tasks.tracking.registry import PREVIOUS as PREVIOUS

# MLflow's own default is 7 retries over several minutes; Airflow and `run_pipeline` retry the stage instead.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]


class Tracker:
    """One MLflow server.

    Args:
        url: The server's address, e.g. ``http://127.0.0.1:5000``.
    """

    def __init__(self, url: str) -> None:
        for key, value in _DEFAULTS.items():
            os.environ.setdefault(key, value)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.url = url
        self._client = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)

    def start(
        self, experiment: str, run_name: str, tags: Mapping[str, str], *, resume: str | None = None
    ) -> tuple[str, str]:
        """Start or resume a run: ``(run_id, experiment_id)``. Creates the experiment if it is missing."""
        with self._errors():
            if resume is not None:
                run = self._client.get_run(resume)
                self._client.update_run(resume, status="RUNNING")
            else:
                found = self._client.get_experiment_by_name(experiment)
                key = found.experiment_id if found else self._client.create_experiment(experiment)
                run = self._client.create_run(key, run_name=run_name, tags=dict(tags))
            return run.info.run_id, run.info.experiment_id

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with self._errors():
            self._client.set_terminated(run_id, status=status)

    def params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Log parameters; values are truncated to MLflow's limit of 6,000 characters."""
        from mlflow.entities import Param

        items = [Param(key, str(value)[:6000]) for key, value in values.items()]
        with self._errors():
            for start in range(0, len(items), 100):  # the server's limit for one batch
                self._client.log_batch(run_id, params=items[start : start + 100])

    def metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics at a step, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._errors():
            self._client.log_batch(run_id, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

    def tags(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        with self._errors():
            self._client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def inputs(self, run_id: str, inputs: Sequence[DataInput]) -> None:
        """Log the data sets that the run has read; idempotent."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        entries = [
            DatasetInput(
                Dataset(one.name, one.digest, one.source_type, one.source, profile=one.profile),
                tags=[InputTag(MLFLOW_DATASET_CONTEXT, one.context)],
            )
            for one in inputs
        ]
        with self._errors():
            self._client.log_inputs(run_id, datasets=entries)

    def files(self, run_id: str, path: Path, at: str | None = None) -> None:
        """Upload a file, or all files of a folder, to the folder `at` of the run's artifacts."""
        with self._errors():
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), artifact_path=at)
            else:
                self._client.log_artifact(run_id, str(path), artifact_path=at)

    @contextlib.contextmanager
    def system_metrics(self, run_id: str, *, every: float = 5.0) -> Iterator[None]:
        """Sample CPU, memory, disk, network and GPU into the run while the block runs; `every` in seconds."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            run_id, sampling_interval=every, samples_before_logging=1, resume_logging=True, tracking_uri=self.url
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def register(
        self, name: str, run_id: str, onnx_file: Path, *, example: Any, card: str, title: str, tags: Mapping[str, str]
    ) -> ModelVersion:
        """A new version of the model `name`, from an ONNX file: signature, input example, card and tags in place.

        A version that carries the same ``lepton.package_digest`` is returned as it is, so a killed stage can run again.

        Args:
            name: Registered model; created if it is missing.
            run_id: The run the model belongs to.
            onnx_file: The network.
            example: Inputs by name, as the model takes them: ``{name: array [N, ...]}``.
            card: Model card in Markdown, the version's description.
            title: One line, the registered model's description.
            tags: Tags of the version.
        """
        import mlflow
        import onnx

        digest = tags["lepton.package_digest"]
        with self._errors():
            known = [v for v in self.versions(name) if v.tags.get("lepton.package_digest") == digest]
            if known:
                return known[0]
            mlflow.set_tracking_uri(self.url)
            mlflow.set_registry_uri(self.url)
            network = onnx.load(onnx_file)
            with mlflow.start_run(run_id=run_id, log_system_metrics=False):
                logged = mlflow.onnx.log_model(
                    network,
                    name="model",
                    signature=signature(network, example),
                    input_example=example,
                    pip_requirements=requirements(),
                    onnx_execution_providers=["CPUExecutionProvider"],
                )
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name, description=title)
            created = self._client.create_model_version(
                name,
                source=logged.model_uri,
                run_id=run_id,
                tags=dict(tags),
                description=card,
                model_id=logged.model_id,
            )
            return ModelVersion(name, str(created.version), run_id, dict(tags))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, newest first."""
        with self._errors():
            found = self._client.search_model_versions(f"name = '{name}'")
        versions = [ModelVersion(name, str(v.version), v.run_id or "", dict(v.tags)) for v in found]
        return sorted(versions, key=lambda v: int(v.version), reverse=True)

    def version(self, name: str, which: str) -> ModelVersion | None:
        """A version by number or alias, or None."""
        from mlflow.exceptions import MlflowException

        with self._errors():
            try:
                if which.isdigit():
                    found = self._client.get_model_version(name, which)
                else:
                    found = self._client.get_model_version_by_alias(name, which)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return ModelVersion(name, str(found.version), found.run_id or "", dict(found.tags))

    def champion(self, name: str) -> ModelVersion | None:
        """The version in production, or None."""
        return self.version(name, CHAMPION)

    def set_alias(self, name: str, alias: str, version: str | None) -> None:
        """Point an alias at a version; None removes the alias."""
        with self._errors():
            if version is None:
                self._client.delete_registered_model_alias(name, alias)
            else:
                self._client.set_registered_model_alias(name, alias, version)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            code = getattr(error, "error_code", "")
            if (
                isinstance(error, RequestException)
                or "API request to" in str(error)
                or code == "TEMPORARILY_UNAVAILABLE"
            ):
                raise UnavailableError(
                    f"MLflow does not answer: {_short(error)}.", where=self.url, fix="Start it with `lepton up`."
                ) from error
            raise ArtifactError(f"MLflow refused: {_short(error)}.", where=self.url) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def requirements() -> list[str]:
    """Pinned requirements of the logged model, so that MLflow need not import the model to infer them."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnx", "onnxruntime")]


def signature(network: Any, inputs: Collection[str]) -> Any:
    """Signature of an ONNX graph with these inputs; the first axis is the batch, of any size."""
    import numpy as np
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(value: Any) -> TensorSpec:
        tensor = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = [-1, *(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim[1:])]
        return TensorSpec(dtype, shape, value.name)

    graph = network.graph
    return ModelSignature(
        inputs=Schema([spec(i) for i in graph.input if i.name in inputs]),
        outputs=Schema([spec(o) for o in graph.output]),
    )
