"""DaskCluster manifest: ``python -m lepton_tasks.data.cluster.kubernetes | kubectl apply -f -``."""

from __future__ import annotations

import json
import sys
from typing import Any

from lepton_tasks.core.environment import Kubernetes, load_environment
from lepton_tasks.core.errors import ConfigError

_TLS = "/etc/dask-tls"
_SPILL = "/spill"
# Without a request it gets 1/512 of a worker thread's processor time, and is evicted first when memory is short.
_SCHEDULER = {"cpu": "500m", "memory": "512Mi"}
_PROBE_SECONDS = 10  # Kubernetes' default of 1 s would restart a busy scheduler and lose its work


def scheduler_address(cluster: Kubernetes) -> str:
    """Address of the scheduler inside the Kubernetes cluster."""
    return f"tls://{cluster.name}-scheduler.{cluster.namespace}.svc:8786"


def manifest(cluster: Kubernetes) -> dict[str, Any]:
    """The resource ``kubernetes.dask.org/v1`` ``DaskCluster``, as JSON values.

    Source: https://kubernetes.dask.org/en/latest/operator_resources.html
    """
    # The operator sets a tcp:// address in the workers' environment; the command line takes precedence.
    worker = ["dask", "worker", scheduler_address(cluster), "--name", "$(DASK_WORKER_NAME)"]
    worker += ["--nthreads", str(cluster.threads), "--memory-limit", cluster.memory + "B"]
    worker += ["--local-directory", _SPILL, "--no-dashboard"]
    scheduler = ["dask", "scheduler", "--protocol", "tls", "--port", "8786", "--dashboard-address", ":8787"]
    compute = {"cpu": str(cluster.threads), "memory": cluster.memory}
    ports = {"tcp-comm": 8786, "http-dashboard": 8787}
    probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "timeoutSeconds": _PROBE_SECONDS}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": cluster.name, "namespace": cluster.namespace},
        "spec": {
            "worker": {
                "replicas": cluster.workers,
                "spec": _pod(
                    cluster,
                    {
                        "name": "worker",
                        "args": worker + _certificates(),
                        "resources": {"requests": compute, "limits": {"memory": cluster.memory}},
                    },
                ),
            },
            "scheduler": {
                "spec": _pod(
                    cluster,
                    {
                        "name": "scheduler",
                        "args": scheduler + _certificates(),
                        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
                        "resources": {"requests": _SCHEDULER},
                        "readinessProbe": probe,
                        "livenessProbe": {**probe, "initialDelaySeconds": 15, "periodSeconds": 20},
                    },
                ),
                "service": {
                    "type": "ClusterIP",
                    "selector": {"dask.org/cluster-name": cluster.name, "dask.org/component": "scheduler"},
                    "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports.items()],
                },
            },
        },
    }


def _certificates() -> list[str]:
    files = {"--tls-ca-file": "ca.crt", "--tls-cert": "tls.crt", "--tls-key": "tls.key"}
    return [word for option, name in files.items() for word in (option, f"{_TLS}/{name}")]


def _pod(cluster: Kubernetes, container: dict[str, Any]) -> dict[str, Any]:
    """Pod spec with the volumes shared by scheduler, workers and stages."""
    claims = list(dict.fromkeys(cluster.volumes.values()))
    mounts = [{"name": claim, "mountPath": path} for path, claim in cluster.volumes.items()]
    own = [{"name": "tls", "mountPath": _TLS, "readOnly": True}, {"name": "spill", "mountPath": _SPILL}]
    return {
        "containers": [{**container, "image": cluster.image, "volumeMounts": [*own, *mounts]}],
        "volumes": [
            {"name": "tls", "secret": {"secretName": cluster.tls_secret}},
            {"name": "spill", "emptyDir": {"sizeLimit": cluster.spill}},
            *({"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
        ],
    }


def main() -> None:
    """Write the manifest of the current environment to standard output, as JSON, which is valid YAML."""
    cluster = load_environment().dask.kubernetes
    if cluster is None:
        raise ConfigError(
            "the environment describes no cluster.",
            where="dask.kubernetes",
            fix="Set LEPTON_ENVIRONMENT=configs/environments/kubernetes.yaml.",
        )
    sys.stdout.write(json.dumps(manifest(cluster), indent=2) + "\n")


if __name__ == "__main__":
    main()
