"""Manifest of the inference servers: ``python -m lepton_tasks.deployment.kubernetes | kubectl apply -f -``."""

from __future__ import annotations

import json
import sys
import urllib.parse
from typing import Any

from lepton_tasks.core.environment import Environment, ServingPods, load_environment
from lepton_tasks.core.errors import ConfigError

_LABEL = "app.kubernetes.io/name"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_UID = 10001  # the image's user
_HOME, _KEYS, _TLS = "/var/lib/lepton", "/etc/lepton/keys", "/etc/lepton/tls"
_SECRET_MODE = 0o440  # readable by `fsGroup`; the server refuses a key file that others may write to
_DRAIN_SECONDS, _EXIT_SECONDS = 20, 10  # the server's `DRAIN_SECONDS`, and the time to exit
_START_SECONDS = 600  # to download and warm up large packages
_MAX_PROCESSES = 2  # each has its own copy of every model


def manifest(environment: Environment) -> dict[str, Any]:
    """The Kubernetes objects as a ``v1`` ``List``: Deployment, Services, PodDisruptionBudget, NetworkPolicy.

    If configured in the environment, also HorizontalPodAutoscaler and PodMonitor.

    Raises:
        ConfigError: the environment has no ``serving.kubernetes``.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/
    """
    pods = environment.serving.kubernetes
    if pods is None:
        raise ConfigError(
            "the environment describes no pods.",
            where="serving.kubernetes",
            fix="Set LEPTON_ENVIRONMENT=configs/environments/kubernetes.yaml.",
        )
    items = [_deployment(pods, environment.tracking_url), _service(pods), _replicas(pods)]
    items += [_budget(pods), _network_policy(pods, environment.tracking_url)]
    if pods.most_replicas > pods.replicas:
        items.append(_autoscaler(pods))
    if pods.metrics == "podmonitor":
        items.append(_pod_monitor(pods))
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _object(pods: ServingPods, version: str, kind: str, spec: dict[str, Any], name: str = "") -> dict[str, Any]:
    metadata = {"name": name or pods.name, "namespace": pods.namespace, "labels": {_LABEL: pods.name}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _deployment(pods: ServingPods, tracking_url: str) -> dict[str, Any]:
    scaled = pods.most_replicas > pods.replicas  # the autoscaler sets the number of replicas; `kubectl apply` must not
    return _object(
        pods,
        "apps/v1",
        "Deployment",
        {
            **({} if scaled else {"replicas": pods.replicas}),
            "selector": {"matchLabels": {_LABEL: pods.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": _START_SECONDS + 60,
            "template": {"metadata": _pod_metadata(pods), "spec": _pod(pods, tracking_url)},
        },
    )


def _pod_metadata(pods: ServingPods) -> dict[str, Any]:
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(pods.port), "prometheus.io/path": "/metrics"}
    annotations = {"annotations": scraped} if pods.metrics == "annotations" else {}
    return {"labels": {_LABEL: pods.name}, **annotations}


def _pod(pods: ServingPods, tracking_url: str) -> dict[str, Any]:
    spread = {
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {_LABEL: pods.name}},
    }
    tls = [_secret_volume("tls", pods.tls_secret, ["tls.crt", "tls.key"])] if pods.tls_secret else []
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pods.linger + _DRAIN_SECONDS + _EXIT_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {**spread, "topologyKey": key} for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "containers": [_container(pods, tracking_url)],
        "volumes": [
            {"name": "state", "emptyDir": {"sizeLimit": pods.disk}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
            _secret_volume("keys", pods.keys_secret, ["keys.json"]),
            *tls,
        ],
    }


def _secret_volume(name: str, secret: str, files: list[str]) -> dict[str, Any]:
    items = [{"key": file, "path": file} for file in files]
    return {"name": name, "secret": {"secretName": secret, "defaultMode": _SECRET_MODE, "items": items}}


def _container(pods: ServingPods, tracking_url: str) -> dict[str, Any]:
    processes = min(_MAX_PROCESSES, pods.cpus)
    command = ["python", "-m", "lepton_tasks.serving", "--host", "0.0.0.0", "--port", str(pods.port)]
    command += ["--home", f"{_HOME}/serving", "--follow", tracking_url, "--keys", f"{_KEYS}/keys.json"]
    # As many threads as cores: more would exhaust the CPU quota of a period and then be throttled.
    command += ["--processes", str(processes), "--workers", str(max(1, pods.cpus // processes))]
    command += ["--linger", str(pods.linger), "--log-format", "json"]
    mounts = {"state": _HOME, "scratch": "/tmp", "keys": _KEYS}
    if pods.tls_secret:
        command += ["--tls-cert", f"{_TLS}/tls.crt", "--tls-key", f"{_TLS}/tls.key"]
        mounts["tls"] = _TLS
    compute = {"cpu": str(pods.cpus), "memory": pods.memory}
    return {
        "name": "serving",
        "image": pods.image,
        "args": command,
        "ports": [{"name": "http", "containerPort": pods.port}],
        "resources": {"requests": {**compute, "ephemeral-storage": pods.disk}, "limits": compute},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The server listens once its models are loaded.
        "startupProbe": _probe(pods, "live", every=2, failures=_START_SECONDS // 2),
        # A hanging server is killed; a busy one is not.
        "livenessProbe": _probe(pods, "live", every=10, failures=6),
        # Ready: the server serves every champion of the registry, and is not stopping.
        "readinessProbe": _probe(pods, "ready", every=2, failures=2),
        "volumeMounts": [
            {"name": name, "mountPath": path, **({} if name in ("state", "scratch") else {"readOnly": True})}
            for name, path in mounts.items()
        ],
    }


def _probe(pods: ServingPods, what: str, *, every: int, failures: int) -> dict[str, Any]:
    scheme = {"scheme": "HTTPS"} if pods.tls_secret else {}
    request = {"httpGet": {"path": f"/v2/health/{what}", "port": "http", **scheme}}
    return {**request, "periodSeconds": every, "timeoutSeconds": 5, "failureThreshold": failures}


def _service(pods: ServingPods) -> dict[str, Any]:
    ports = [{"name": "http", "port": pods.port, "targetPort": "http"}]
    return _object(pods, "v1", "Service", {"selector": {_LABEL: pods.name}, "ports": ports})


def _replicas(pods: ServingPods) -> dict[str, Any]:
    """Headless Service that resolves to all ready replicas: the environment's `serving.replicas`."""
    ports = [{"name": "http", "port": pods.port, "targetPort": "http"}]
    spec = {"clusterIP": "None", "selector": {_LABEL: pods.name}, "ports": ports}
    return _object(pods, "v1", "Service", spec, name=f"{pods.name}-replicas")


def _budget(pods: ServingPods) -> dict[str, Any]:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {_LABEL: pods.name}}}
    return _object(pods, "policy/v1", "PodDisruptionBudget", spec)


def _network_policy(pods: ServingPods, tracking_url: str) -> dict[str, Any]:
    """Ingress: the port, from the own namespace and those in `clients`. Egress: DNS and MLflow's port."""
    url = urllib.parse.urlsplit(tracking_url)
    mlflow = url.port or (443 if url.scheme == "https" else 80)
    sources: list[dict[str, Any]] = [{"podSelector": {}}]
    sources += [{"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}} for name in pods.clients]
    spec = {
        "podSelector": {"matchLabels": {_LABEL: pods.name}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": sources, "ports": [{"protocol": "TCP", "port": pods.port}]}],
        "egress": [
            {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]},
            {"ports": [{"protocol": "TCP", "port": mlflow}]},
        ],
    }
    return _object(pods, "networking.k8s.io/v1", "NetworkPolicy", spec)


def _autoscaler(pods: ServingPods) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": pods.busy}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": pods.name},
        "minReplicas": pods.replicas,
        "maxReplicas": pods.most_replicas,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    return _object(pods, "autoscaling/v2", "HorizontalPodAutoscaler", spec)


def _pod_monitor(pods: ServingPods) -> dict[str, Any]:
    """PodMonitor of the Prometheus Operator.

    Source: https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor
    """
    key = {"name": pods.keys_secret, "key": "prometheus"}
    endpoint = {"port": "http", "path": "/metrics", "authorization": {"credentials": key}}
    if pods.tls_secret:
        endpoint |= {"scheme": "https", "tlsConfig": {"serverName": f"{pods.name}.{pods.namespace}.svc"}}
    spec = {"selector": {"matchLabels": {_LABEL: pods.name}}, "podMetricsEndpoints": [endpoint]}
    return _object(pods, "monitoring.coreos.com/v1", "PodMonitor", spec)


def main() -> None:
    """Write the manifest of the current environment to standard output as JSON, which is valid YAML."""
    sys.stdout.write(json.dumps(manifest(load_environment()), indent=2) + "\n")


if __name__ == "__main__":
    main()
