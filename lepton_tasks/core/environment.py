"""The environment file and `LEPTON_*` variables: where things run, not what they do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.faults import reason_of
from lepton_tasks.core.settings import read_yaml
from lepton_tasks.core.spec import ComponentSpec

_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENOENT}


class Tls(pydantic.BaseModel):
    """TLS files (PEM) of a Dask cluster, relative to the project."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ca: str
    """Certificate authority of scheduler, workers and this machine."""
    cert: str
    """This machine's certificate."""
    key: str
    """Its private key."""


class Kubernetes(pydantic.BaseModel):
    """Dask cluster on Kubernetes: see `lepton_tasks.data.cluster.kubernetes`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str
    """Image of scheduler and workers: that of the stages."""
    name: str = pydantic.Field("lepton", pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")
    """Name of the DaskCluster; the scheduler's service is ``<name>-scheduler``."""
    namespace: str = "default"
    """Where it lives."""
    workers: int = pydantic.Field(2, ge=1)
    """Worker pods; one per node is best."""
    threads: int = pydantic.Field(2, ge=1)
    """Threads and cores per pod."""
    memory: str = pydantic.Field("4Gi", pattern=r"^[1-9][0-9]*[MG]i$")
    """Memory per pod; results spill to disk above 60 %."""
    spill: str = pydantic.Field("10Gi", pattern=r"^[1-9][0-9]*[MG]i$")
    """Disk per pod for spilled results."""
    tls_secret: str = "lepton-dask-tls"
    """Secret with ``ca.crt``, ``tls.crt`` and ``tls.key``."""
    volumes: dict[str, str] = {}
    """Volume claims by mount path: at least the state folder and `data_root`, as in the stages."""


class Dask(pydantic.BaseModel):
    """Dask cluster of the data stages."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    address: str | None = pydantic.Field(None, pattern=r"^(tls|tcp)://.+:\d+$")
    """Scheduler address; null for threads of this process."""
    workers: int = pydantic.Field(0, ge=0)
    """Threads without a scheduler; 0 means one per core."""
    tls: Tls | None = None
    """Certificates for an address that begins with ``tls://``."""
    patience: float = pydantic.Field(30.0, gt=0)
    """Seconds without a scheduler or any worker before a stage fails."""
    kubernetes: Kubernetes | None = None
    """Kubernetes settings of the cluster."""


class TrainingPods(pydantic.BaseModel):
    """Training pods: see `lepton_tasks.training.kubernetes`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["job", "pytorchjob"] = "job"
    """``batch/v1`` Job, or PyTorchJob of Kubeflow's operator."""
    image: str
    """Image of the stages."""
    name: str = pydantic.Field("lepton-training", pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")
    """Name of the job and of its headless service."""
    namespace: str = "default"
    """Where it lives."""
    cpus: int = pydantic.Field(2, ge=1)
    """Cores per pod."""
    memory: str = pydantic.Field("8Gi", pattern=r"^[1-9][0-9]*[MG]i$")
    """Memory per pod."""
    gpus: int = pydantic.Field(0, ge=0)
    """NVIDIA GPUs per pod: equal to `train.devices`, or 0 for CPU processes."""
    claim: str
    """ReadWriteMany volume claim of the state folder."""
    home: str = pydantic.Field("/var/lib/lepton", pattern=r"^/.+$")
    """Mount path, as in the stages' pods (``LEPTON_HOME``)."""
    port: int = pydantic.Field(29400, ge=1024, le=65535)
    """Port on which the first pod waits for the others."""
    patience: float = pydantic.Field(900.0, gt=0)
    """Seconds without a heartbeat from any pod, including startup, before a training fails."""

    @property
    def rendezvous(self) -> str:
        """``host:port`` of the first pod, by its name in the job's service."""
        first = f"{self.name}-0.{self.name}" if self.kind == "job" else f"{self.name}-master-0"
        return f"{first}.{self.namespace}.svc:{self.port}"


class Training(pydantic.BaseModel):
    """Distributed training."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    nodes: int = pydantic.Field(1, ge=1, le=1024)
    """Machines or pods per training, each with `train.devices` processes and the same state folder."""
    rendezvous: str | None = pydantic.Field(None, pattern=r"^[^:/]+:\d+$")
    """``host:port`` of the machine that runs the stages, as seen from the others; required with several nodes."""
    restarts: int = pydantic.Field(2, ge=0, le=100)
    """How often a training restarts from its last checkpoint after losing a process."""
    kubernetes: TrainingPods | None = None
    """Pods that train while the stage waits; null if the stage's machine is the first node."""

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Training:
        if self.nodes > 1 and self.meeting_point is None:
            raise ValueError("several nodes need `rendezvous`, the host:port where they find each other")
        return self

    @property
    def meeting_point(self) -> str | None:
        """``host:port`` where the nodes find each other."""
        return self.rendezvous or (self.kubernetes.rendezvous if self.kubernetes is not None else None)

    @property
    def calls_nodes(self) -> bool:
        """Whether machines other than the stage's take part."""
        return self.nodes > 1 or self.kubernetes is not None


class ServingPods(pydantic.BaseModel):
    """Inference servers on Kubernetes: see `lepton_tasks.deployment.kubernetes`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str
    """The serving image."""
    name: str = pydantic.Field("lepton-serving", pattern=r"^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$")
    """Name of the Deployment and its Service; the headless Service of all replicas is ``<name>-replicas``."""
    namespace: str = "default"
    """Where it lives."""
    port: int = pydantic.Field(8100, ge=1024, le=65535)
    """Port of the servers and of the Service."""
    replicas: int = pydantic.Field(2, ge=1, le=1000)
    """Replicas, at least."""
    most_replicas: int = pydantic.Field(2, ge=1, le=1000)
    """Replicas, at most: above `replicas`, a HorizontalPodAutoscaler chooses by processor use."""
    busy: int = pydantic.Field(70, ge=10, le=95)
    """Percent of `cpus` that the autoscaler aims at."""
    cpus: int = pydantic.Field(2, ge=1, le=256)
    """Cores per replica; inference threads follow from it."""
    memory: str = pydantic.Field("2Gi", pattern=r"^[1-9][0-9]*[MG]i$")
    """Memory per replica."""
    disk: str = pydantic.Field("8Gi", pattern=r"^[1-9][0-9]*[MG]i$")
    """Disk per replica: up to three versions of each model, and 512 MiB of request log per model."""
    linger: int = pydantic.Field(10, ge=1, le=300)
    """Seconds that a stopping replica still answers, until load balancers have removed it."""
    keys_secret: str = "lepton-serving-keys"
    """Secret with ``keys.json``, as `lepton key add` writes it; servers reload it on change."""
    tls_secret: str | None = None
    """Secret with ``tls.crt`` and ``tls.key``; null for HTTP."""
    clients: tuple[str, ...] = ()
    """Additional namespaces whose pods may send requests."""
    metrics: Literal["annotations", "podmonitor"] = "annotations"
    """How Prometheus finds the replicas; a PodMonitor sends the key ``prometheus`` of `keys_secret`."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> ServingPods:
        if self.most_replicas < self.replicas:
            raise ValueError(f"`most_replicas` {self.most_replicas} is below `replicas` {self.replicas}")
        return self


class Serving(pydantic.BaseModel):
    """Inference servers that models are deployed to."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: str = "process"
    """Deployment target of use cases that name none; see `lepton list deploy_targets`."""
    replicas: str | tuple[str, ...] = ()
    """For the target `followers`: the addresses of the servers, or one whose host name resolves to all of them."""
    patience: float = pydantic.Field(300.0, gt=0)
    """For the target `followers`: seconds until every replica must serve a new version."""
    kubernetes: ServingPods | None = None
    """Servers on Kubernetes."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """`replicas` as a list."""
        return (self.replicas,) if isinstance(self.replicas, str) else self.replicas

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Serving:
        for url in self.addresses:
            if not re.fullmatch(r"https?://[^/\s]+", url):
                raise ValueError(f"{url!r} is not an address such as http://serving-1:8100")
        if self.target == "followers" and not self.addresses:
            raise ValueError("the target `followers` needs `replicas`, the addresses of the servers")
        return self


class Environment(pydantic.BaseModel):
    """The environment: `configs/environments/*.yaml`, overridden by ``LEPTON_*`` variables."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = "local"
    """Name of the environment."""
    airflow_url: str = "http://127.0.0.1:8080"
    """Airflow's address."""
    tracking_url: str = "http://127.0.0.1:5000"
    """MLflow's address."""
    serving_url: str = "http://127.0.0.1:8100"
    """The inference server's address."""
    serving: Serving = Serving()
    """The inference servers."""
    dask: Dask = Dask()
    """Dask cluster of the data stages."""
    training: Training = Training()
    """Distributed training."""
    alerts: tuple[ComponentSpec, ...] = (ComponentSpec(name="log"),)
    """Channels for alerts about deployed models; see `lepton list alert_channels`."""
    data_root: str = "data"
    """Base folder of relative source paths; relative to the project."""


_VARIABLES = {
    "LEPTON_AIRFLOW_URL": "airflow_url",
    "LEPTON_TRACKING_URL": "tracking_url",
    "LEPTON_SERVING_URL": "serving_url",
    "LEPTON_DATA": "data_root",
}
_PORTS = {
    "LEPTON_AIRFLOW_PORT": "airflow_url",
    "LEPTON_MLFLOW_PORT": "tracking_url",
    "LEPTON_SERVING_PORT": "serving_url",
}
_RUNNING_FILE = "run/addresses.json"


def project_root(start: Path | None = None) -> Path:
    """The nearest parent of `start` with ``configs/use_cases``; `start` itself if there is none."""
    here = (start or Path.cwd()).resolve()
    return next((p for p in (here, *here.parents) if (p / "configs" / "use_cases").is_dir()), here)


def use_case_file(name: str) -> Path:
    """Path of a use case's YAML file in this project; it need not exist."""
    return project_root() / "configs" / "use_cases" / f"{name}.yaml"


def state_root(variables: Mapping[str, str] | None = None) -> Path:
    """The state folder: ``LEPTON_HOME``, or ``.lepton`` in the project."""
    variables = os.environ if variables is None else variables
    return Path(variables.get("LEPTON_HOME") or project_root() / ".lepton").expanduser().resolve()


@contextlib.contextmanager
def usable_state() -> Iterator[None]:
    """Convert an `OSError` caused by an unusable state folder into a `ConfigError`."""
    try:
        yield
    except OSError as error:
        root = state_root()
        path = Path(str(error.filename)) if error.filename else None
        if path is None or not (path.is_relative_to(root) or root.is_relative_to(path)) or error.errno not in _UNUSABLE:
            raise
        raise ConfigError(
            f"the state folder cannot be used: {error.strerror} ({path}).",
            where=str(root),
            fix="Choose a folder that can be written to: LEPTON_HOME=/path/to/folder",
        ) from error


def load_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """The effective environment.

    In order of increasing precedence: defaults, the file in ``LEPTON_ENVIRONMENT`` (or
    ``configs/environments/local.yaml``), the addresses recorded by `lepton up`, ``LEPTON_*_PORT``, ``LEPTON_*_URL``.
    """
    variables = os.environ if variables is None else variables
    default = project_root() / "configs" / "environments" / "local.yaml"
    path = Path(variables["LEPTON_ENVIRONMENT"]) if variables.get("LEPTON_ENVIRONMENT") else default
    values: dict[str, Any] = read_yaml(path) if path.exists() or variables.get("LEPTON_ENVIRONMENT") else {}
    running = state_root(variables) / _RUNNING_FILE
    if running.exists():
        values |= json.loads(running.read_text())
    for variable, field in _PORTS.items():
        port = variables.get(variable, "")
        # Kubernetes sets LEPTON_SERVING_PORT=tcp://10.96.7.1:8100 in all pods beside a service `lepton-serving`.
        if port and not port.startswith("tcp://"):
            if not port.isdigit() or not 0 < int(port) < 65536:
                raise ConfigError(f"{port!r} is not a port.", where=variable, fix="Give a number from 1 to 65535.")
            values[field] = f"http://127.0.0.1:{port}"
    values |= {field: variables[variable] for variable, field in _VARIABLES.items() if variables.get(variable)}
    if variables.get("LEPTON_DASK_ADDRESS"):
        values["dask"] = {**values.get("dask", {}), "address": variables["LEPTON_DASK_ADDRESS"]}
    try:
        environment = Environment.model_validate(values)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{fault['input']!r} is invalid: {reason_of(fault)}.", where=f"{path.name}: {key}") from error
    root = project_root() / Path(environment.data_root).expanduser()
    return environment.model_copy(update={"data_root": str(root.resolve())})


def record_addresses(root: Path, addresses: Mapping[str, str]) -> None:
    """Record the addresses of started services for later commands."""
    from lepton_tasks.core.store import write_json

    path = root / _RUNNING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(addresses))


def forget_addresses(root: Path) -> None:
    """Undo `record_addresses`."""
    (root / _RUNNING_FILE).unlink(missing_ok=True)
