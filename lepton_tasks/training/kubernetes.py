"""Training job manifest: ``python -m lepton_tasks.training.kubernetes | kubectl apply -f -``."""

from __future__ import annotations

import json
import sys
from typing import Any

from lepton_tasks.core.environment import Training, TrainingPods, load_environment
from lepton_tasks.core.errors import ConfigError

_KEPT_SECONDS = 3_600
_LABEL = "app.kubernetes.io/name"


def manifest(machines: Training) -> dict[str, Any]:
    """A ``v1`` ``List`` of one training's resources, as JSON values.

    For ``job``, an Indexed Job and the headless service for its pods' host names; for ``pytorchjob``, a
    ``kubeflow.org/v1`` ``PyTorchJob``, whose operator adds the service. Each pod is a node of the training.

    Raises:
        ConfigError: the environment describes no pods.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/ and
    https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch/
    """
    pods = machines.kubernetes
    if pods is None:
        raise ConfigError(
            "the environment describes no pods.",
            where="training.kubernetes",
            fix="Set LEPTON_ENVIRONMENT=configs/environments/kubernetes.yaml.",
        )
    made = [_service(pods), _job(machines, pods)] if pods.kind == "job" else [_pytorchjob(machines, pods)]
    return {"apiVersion": "v1", "kind": "List", "items": made}


def _service(pods: TrainingPods) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pods),
        "spec": {
            "clusterIP": "None",
            "selector": {_LABEL: pods.name},
            "publishNotReadyAddresses": True,
            "ports": [{"name": "rendezvous", "port": pods.port}],
        },
    }


def _job(machines: Training, pods: TrainingPods) -> dict[str, Any]:
    pod = _pod(pods, "node")
    pod["spec"] |= {"subdomain": pods.name, "restartPolicy": "OnFailure"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(pods),
        "spec": {
            "completionMode": "Indexed",
            "completions": machines.nodes,
            "parallelism": machines.nodes,
            "backoffLimit": machines.restarts * machines.nodes,  # a lost pod often makes the others fail
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": pod,
        },
    }


def _pytorchjob(machines: Training, pods: TrainingPods) -> dict[str, Any]:
    replicas = {"Master": 1, "Worker": machines.nodes - 1}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(pods),
        "spec": {
            "runPolicy": {
                "backoffLimit": machines.restarts * machines.nodes,
                "cleanPodPolicy": "None",
                "ttlSecondsAfterFinished": _KEPT_SECONDS,
            },
            "pytorchReplicaSpecs": {
                # The operator requires this container name.
                kind: {"replicas": count, "restartPolicy": "OnFailure", "template": _pod(pods, "pytorch")}
                for kind, count in replicas.items()
                if count
            },
        },
    }


def _metadata(pods: TrainingPods) -> dict[str, Any]:
    return {"name": pods.name, "namespace": pods.namespace, "labels": {_LABEL: pods.name}}


def _pod(pods: TrainingPods, container: str) -> dict[str, Any]:
    """Template of a pod that joins one training and exits."""
    compute: dict[str, Any] = {"cpu": str(pods.cpus), "memory": pods.memory}
    gpus = {"nvidia.com/gpu": pods.gpus} if pods.gpus else {}
    node = ["python", "-m", "lepton_tasks.training.node", "--address", "$(POD_IP)", "--once"]
    return {
        "metadata": {"labels": {_LABEL: pods.name}},
        "spec": {
            "terminationGracePeriodSeconds": 60,  # time to write the state
            "containers": [
                {
                    "name": container,
                    "image": pods.image,
                    "args": node,
                    "env": [
                        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "LEPTON_HOME", "value": pods.home},
                    ],
                    "resources": {"requests": compute | gpus, "limits": {"memory": pods.memory} | gpus},
                    "volumeMounts": [
                        {"name": "state", "mountPath": pods.home},
                        {"name": "shared-memory", "mountPath": "/dev/shm"},
                    ],
                }
            ],
            "volumes": [
                {"name": "state", "persistentVolumeClaim": {"claimName": pods.claim}},
                # The default of 64 MiB is too small for NCCL between a pod's GPUs. Counts towards pod memory.
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
            ],
        },
    }


def main() -> None:
    """Write the current environment's manifest to standard output, as JSON, a subset of YAML."""
    sys.stdout.write(json.dumps(manifest(load_environment().training), indent=2) + "\n")


if __name__ == "__main__":
    main()
