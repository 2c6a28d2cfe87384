import json
from pathlib import Path

import pydantic
import pytest
import yaml

from lepton_tasks.core.environment import Environment, load_environment
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.deployment.kubernetes import main, manifest
from lepton_tasks.serving.app import STOP_SECONDS
from lepton_tasks.serving.server import _parser

FILE = Path("configs/environments/kubernetes.yaml")


def environment(**changes):
    values = yaml.safe_load(FILE.read_text())
    values["serving"]["kubernetes"] |= changes
    return Environment.model_validate(values)


def objects(**changes):
    made = manifest(environment(**changes))["items"]
    return {(one["kind"], one["metadata"]["name"]): one["spec"] for one in made}


def pod_of(**changes):
    spec = objects(**changes)["Deployment", "lepton-serving"]["template"]["spec"]
    return spec, spec["containers"][0]


def options_of(container):
    assert container["args"][:3] == ["python", "-m", "lepton_tasks.serving"]
    return _parser().parse_args(container["args"][3:])  # the server knows all of them


def test_a_run_asks_the_replicas_that_the_manifest_names():
    serving = environment().serving
    made = objects()
    port = made["Service", "lepton-serving"]["ports"][0]["port"]
    assert environment().serving_url == f"http://lepton-serving.default.svc:{port}"
    assert serving.addresses == (f"http://lepton-serving-replicas.default.svc:{port}",)
    headless = made["Service", "lepton-serving-replicas"]
    assert headless["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in headless  # one that is not ready catches up with the registry by itself
    labels = made["Deployment", "lepton-serving"]["template"]["metadata"]["labels"]
    assert all(made["Service", name]["selector"] == labels for name in ("lepton-serving", "lepton-serving-replicas"))


def test_a_replica_ends_only_after_it_has_answered_what_it_took():
    pod, container = pod_of(linger=30)
    assert options_of(container).linger == 30
    assert pod["terminationGracePeriodSeconds"] > 30 + STOP_SECONDS
    strategy = objects()["Deployment", "lepton-serving"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


@pytest.mark.parametrize(("cpus", "processes", "workers"), [(1, 1, 1), (2, 2, 1), (3, 2, 1), (8, 2, 4)])
def test_its_threads_fit_the_limit(cpus, processes, workers):
    _, container = pod_of(cpus=cpus)
    options = options_of(container)
    assert (options.processes, options.workers) == (processes, workers)
    assert container["resources"]["limits"] == {"cpu": str(cpus), "memory": "2Gi"}


def test_it_follows_the_registry_and_may_do_little_else():
    pod, container = pod_of()
    options = options_of(container)
    assert (options.follow, str(options.home)) == (environment().tracking_url, "/var/lib/lepton/serving")
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    assert volumes["state"]["emptyDir"] == {"sizeLimit": "8Gi"}
    assert str(options.keys.parent) in mounts
    assert mounts[str(options.keys.parent)]["readOnly"]
    assert volumes["keys"]["secret"]["defaultMode"] & 0o022 == 0  # the server refuses keys that others may write


def test_out_it_reaches_names_and_the_registry_only():
    policy = objects(clients=["shop"])["NetworkPolicy", "lepton-serving"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[53, 53], [5000]]
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8100]
    assert rule["from"] == [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}},
    ]


def test_with_an_autoscaler_the_deployment_does_not_set_their_number():
    fixed, scaled = objects(most_replicas=2), objects(replicas=3, most_replicas=9)
    assert fixed["Deployment", "lepton-serving"]["replicas"] == 2
    assert ("HorizontalPodAutoscaler", "lepton-serving") not in fixed
    assert "replicas" not in scaled["Deployment", "lepton-serving"]
    autoscaler = scaled["HorizontalPodAutoscaler", "lepton-serving"]
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (3, 9)


def test_prometheus_finds_them_by_annotations_or_a_monitor():
    template = objects()["Deployment", "lepton-serving"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "8100"
    monitored = objects(metrics="podmonitor")
    assert "annotations" not in monitored["Deployment", "lepton-serving"]["template"]["metadata"]
    (endpoint,) = monitored["PodMonitor", "lepton-serving"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "lepton-serving-keys", "key": "prometheus"}}


def test_tls_is_for_the_probes_too():
    pod, container = pod_of(tls_secret="serving-tls")
    options = options_of(container)
    assert (str(options.tls_cert), str(options.tls_key)) == ("/etc/lepton/tls/tls.crt", "/etc/lepton/tls/tls.key")
    assert {container[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "liveness", "readiness")} == {
        "HTTPS"
    }
    assert {"serving-tls"} <= {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}


def test_kubernetes_knows_every_field():
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, for its schemas")
    for changes in ({}, {"most_replicas": 2, "tls_secret": "tls", "clients": ["a"]}):
        for one in manifest(environment(**changes))["items"]:
            for version in ("1.25", "1.31"):
                validator.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"replicas": 3, "most_replicas": 2}, "below `replicas` 3"),
        ({"memory": "2G"}, "match pattern"),
        ({"linger": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, says):
    with pytest.raises(pydantic.ValidationError, match=says):
        environment(**changes)


def test_the_command_writes_the_environments_manifest(monkeypatch, capsys):
    monkeypatch.setenv("LEPTON_ENVIRONMENT", str(FILE))
    main()
    assert json.loads(capsys.readouterr().out) == manifest(load_environment())
    monkeypatch.setenv("LEPTON_ENVIRONMENT", "configs/environments/local.yaml")
    with pytest.raises(ConfigError, match=r"kubernetes\.yaml"):
        main()
