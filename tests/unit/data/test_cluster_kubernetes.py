import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from lepton_tasks.core.environment import Environment, load_environment
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.cluster.kubernetes import main, manifest, scheduler_address

FILE = Path("configs/environments/kubernetes.yaml")


@pytest.fixture
def dask():
    return Environment.model_validate(yaml.safe_load(FILE.read_text())).dask


def parts(dask):
    spec = manifest(dask.kubernetes)["spec"]
    pods = (spec["scheduler"]["spec"], spec["worker"]["spec"])
    return spec, *(pod["containers"][0] for pod in pods)


def test_the_stages_go_to_the_service_that_the_operator_makes(dask):
    assert dask.address == scheduler_address(dask.kubernetes) == "tls://lepton-scheduler.default.svc:8786"
    spec, scheduler, worker = parts(dask)
    assert dask.address in worker["args"]
    # The operator selects the scheduler's pod by these labels and names its port by these names.
    assert spec["scheduler"]["service"]["selector"] == {
        "dask.org/cluster-name": "lepton",
        "dask.org/component": "scheduler",
    }
    ports = {"tcp-comm": 8786, "http-dashboard": 8787}
    assert {port["name"]: port["containerPort"] for port in scheduler["ports"]} == ports
    assert {port["targetPort"]: port["port"] for port in spec["scheduler"]["service"]["ports"]} == ports


def test_scheduler_and_workers_are_encrypted_by_the_same_files_as_the_stages(dask):
    for container in parts(dask)[1:]:
        options = dict(zip(container["args"], container["args"][1:], strict=False))
        found = [options[name] for name in ("--tls-ca-file", "--tls-cert", "--tls-key")]
        assert found == [dask.tls.ca, dask.tls.cert, dask.tls.key]


def test_all_pods_mount_what_the_stages_mount_and_every_mount_has_its_volume(dask):
    spec = manifest(dask.kubernetes)["spec"]
    for pod in (spec["scheduler"]["spec"], spec["worker"]["spec"]):
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/var/lib/lepton"] == "lepton-state"
        assert mounts["/data"] == "lepton-data"
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}


def test_a_worker_spills_before_its_pod_is_killed(dask):
    spec, _, worker = parts(dask)
    assert worker["args"][worker["args"].index("--memory-limit") + 1] == "4GiB"
    assert worker["resources"]["limits"] == {"memory": "4Gi"}
    assert spec["worker"]["replicas"] == 2


def test_a_busy_scheduler_has_its_share_of_the_node_and_is_not_restarted_for_being_late(dask):
    _, scheduler, _ = parts(dask)
    assert scheduler["resources"] == {"requests": {"cpu": "500m", "memory": "512Mi"}}
    assert [scheduler[kind]["timeoutSeconds"] for kind in ("readinessProbe", "livenessProbe")] == [10, 10]


def test_the_image_is_named_by_a_version_since_latest_is_pulled_for_each_pod(dask):
    images = {container["image"] for container in parts(dask)[1:]}
    assert images == {"lepton-airflow:0.1.0"}


def test_the_operators_own_schema_accepts_it(dask):
    package = importlib.util.find_spec("dask_kubernetes")  # its files suffice, without its imports
    if package is None or package.origin is None:
        pytest.skip("needs dask-kubernetes, for its schema")
    jsonschema = pytest.importorskip("jsonschema")
    (file,) = Path(package.origin).parent.rglob("crds/daskcluster.yaml")
    schema = yaml.safe_load(file.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(manifest(dask.kubernetes), schema)
    broken = manifest(dask.kubernetes)
    broken["spec"]["scheduler"]["service"]["ports"][0]["port"] = "8786"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_command_prints_it_or_says_what_is_missing(monkeypatch, capsys, dask, tmp_path):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    monkeypatch.setenv("LEPTON_ENVIRONMENT", str(FILE))
    main()
    assert json.loads(capsys.readouterr().out) == manifest(load_environment().dask.kubernetes)
    monkeypatch.setenv("LEPTON_ENVIRONMENT", "configs/environments/local.yaml")
    with pytest.raises(ConfigError, match=r"dask.kubernetes: .* Set LEPTON_ENVIRONMENT"):
        main()
