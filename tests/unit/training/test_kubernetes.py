import json
from pathlib import Path

import pytest
import yaml

from lepton_tasks.core.environment import Environment, Training, load_environment
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.kubernetes import main, manifest

FILE = Path("configs/environments/kubernetes.yaml")


@pytest.fixture
def machines():
    return Environment.model_validate(yaml.safe_load(FILE.read_text())).training


def with_pods(machines, nodes=2, **changes):
    pods = machines.kubernetes.model_copy(update=changes)
    return machines.model_copy(update={"nodes": nodes, "kubernetes": pods})


def templates(of):
    """Pod templates of a manifest, by role."""
    spec = manifest(of)["items"][-1]["spec"]
    if "template" in spec:
        return {"node": spec["template"]}
    return {role: replicas["template"] for role, replicas in spec["pytorchReplicaSpecs"].items()}


def test_the_first_pod_has_the_name_that_the_nodes_meet_at(machines):
    service, job = manifest(machines)["items"]
    pod, name = job["spec"]["template"], machines.kubernetes.name
    assert machines.meeting_point == "lepton-training-0.lepton-training.default.svc:29400"
    # The pods of an Indexed Job are called <job>-<index>, under the service of their subdomain.
    assert (job["metadata"]["name"], pod["spec"]["subdomain"], service["metadata"]["name"]) == (name, name, name)
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["port"] == 29400


def test_kubeflows_operator_is_asked_for_one_master_and_the_others(machines):
    of = with_pods(machines, nodes=3, kind="pytorchjob", gpus=4)
    (job,) = manifest(of)["items"]
    assert of.meeting_point == "lepton-training-master-0.default.svc:29400"
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in replicas.items()} == {"Master": 1, "Worker": 2}
    for pod in templates(of).values():
        assert pod["spec"]["containers"][0]["name"] == "pytorch"
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 4}
    assert list(manifest(with_pods(machines, 1, kind="pytorchjob"))["items"][0]["spec"]["pytorchReplicaSpecs"]) == [
        "Master"
    ]


@pytest.mark.parametrize("kind", ["job", "pytorchjob"])
def test_each_pod_is_a_node_with_the_state_folder_of_the_stages(machines, kind):
    for pod in templates(with_pods(machines, kind=kind)).values():
        container = pod["spec"]["containers"][0]
        assert container["args"][1:3] == ["-m", "lepton_tasks.training.node"]
        assert container["args"][3:] == ["--address", "$(POD_IP)", "--once"]
        values = {variable["name"]: variable for variable in container["env"]}
        assert values["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        state = volumes[mounts[values["LEPTON_HOME"]["value"]]]
        assert state["persistentVolumeClaim"]["claimName"] == "lepton-state"
        assert set(mounts.values()) == set(volumes)


def test_kubernetes_own_schema_accepts_it(machines):
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, for its schemas")
    for item in manifest(machines)["items"]:
        validator.validate(item, "1.31", strict=True)
    broken = manifest(machines)["items"][1]
    broken["spec"]["completion"] = broken["spec"].pop("completions")
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, "1.31", strict=True)


def test_the_models_of_kubeflows_client_know_every_key(machines):
    models = pytest.importorskip("kubeflow.training.models", reason="needs kubeflow-training, for its models")
    kubernetes = pytest.importorskip("kubernetes.client")

    def check(value, kind, path):
        if kind.lower().startswith(("list[", "dict(", "dict[")):
            inner = kind[5:-1].split(", ")[-1]
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                check(item, inner, f"{path}.{key}")
            return
        model = getattr(models, kind, None) or getattr(kubernetes, kind, None)
        if model is None:
            plain = {"str": str, "int": int, "bool": bool, "object": object}[kind]
            assert isinstance(value, plain), f"{path} is not {kind}"
            return
        names = {json_name: name for name, json_name in model.attribute_map.items()}
        for key, item in value.items():
            assert key in names, f"{path}.{key}"
            check(item, model.openapi_types[names[key]], f"{path}.{key}")

    (job,) = manifest(with_pods(machines, kind="pytorchjob"))["items"]
    check(job, "KubeflowOrgV1PyTorchJob", "job")
    job["spec"]["runPolicy"]["backofLimit"] = 1
    with pytest.raises(AssertionError, match=r"job\.spec\.runPolicy\.backofLimit"):
        check(job, "KubeflowOrgV1PyTorchJob", "job")


def test_several_nodes_need_a_place_to_meet():
    with pytest.raises(ValueError, match="rendezvous"):
        Training(nodes=2)
    assert Training(nodes=2, kubernetes={"image": "i", "claim": "c"}).meeting_point


def test_the_command_prints_it_or_says_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    monkeypatch.setenv("LEPTON_ENVIRONMENT", str(FILE))
    main()
    assert json.loads(capsys.readouterr().out) == manifest(load_environment().training)
    monkeypatch.setenv("LEPTON_ENVIRONMENT", "configs/environments/local.yaml")
    with pytest.raises(ConfigError, match=r"training.kubernetes: .* Set LEPTON_ENVIRONMENT"):
        main()
