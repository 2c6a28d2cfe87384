"""Several processes of one server on one port: together they serve one version, and one that dies is replaced."""

import os
import signal
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving_process import Load, serving
from tiny_packages import expected, make_package, picture

PROCESSES = 3
PNG = {"content-type": "image/png"}
OFFSETS = {"1": 0.0, "2": 0.25}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return {
        version: (folder / version, make_package(folder / version, offset=offset))
        for version, offset in OFFSETS.items()
    }


@pytest.fixture
def server(tmp_path, packages):
    with serving(tmp_path / "home", options=("--processes", str(PROCESSES))) as server:
        members(server)
        assert server.deploy("tiny", packages["1"][0], "1", packages["1"][1]).status_code == 200
        yield server


def members(server):
    """The pids, once all of them are ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pids = [child.pid for child in psutil.Process(server.process.pid).children()]
        sockets = list((server.home / "processes").glob("*.sock"))
        if len(pids) == PROCESSES and len(sockets) == PROCESSES and processes_of(server) == PROCESSES:
            return pids
        time.sleep(0.05)
    raise AssertionError(server.log.read_text())


def processes_of(server):
    """How many processes tell their figures."""
    text = server.http.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return len({sample.labels["process"] for sample in samples})


def ask(http):
    reply = http.post("/v1/models/tiny/predict", content=picture(100), headers=PNG)
    reply.raise_for_status()
    answer = reply.json()
    return answer["version"], round(answer["predictions"][0]["probabilities"]["light"], 5)


PAIRS = {(version, round(expected(100, offset)["probabilities"]["light"], 5)) for version, offset in OFFSETS.items()}


def versions(server, count=15):
    found = []
    for _ in range(count):  # a connection each, so that all processes are met
        reply = httpx.post(f"{server.url}/v1/models/tiny/predict", content=picture(1), headers=PNG, trust_env=False)
        found.append(reply.headers["lepton-version"])
    return set(found)


def test_a_change_reaches_all_processes_before_it_is_reported(server, packages):
    assert versions(server) == {"1"}
    with Load(server, ask, anew=True) as load:
        for version in ("2", "1", "2", "1"):
            folder, digest = packages[version]
            assert server.deploy("tiny", folder, version, digest).json()["changed"] is True
            assert versions(server, 8) == {version}
    assert not load.failures
    assert set(load.answers) == PAIRS
    rolled = server.http.post("/admin/models/tiny/rollback", headers=server.admin_headers).json()
    assert versions(server) == {rolled["version"]} == {"2"}
    server.http.delete("/admin/models/tiny", headers=server.admin_headers)
    statuses = {server.predict("tiny", picture(1)).status_code for _ in range(10)}
    assert statuses == {404}


def test_a_killed_process_is_replaced_and_serves_what_the_others_serve(server, packages):
    victim, *others = members(server)
    with Load(server, ask, anew=True) as load:
        time.sleep(0.3)
        os.kill(victim, signal.SIGKILL)
        server.connect_anew()  # the connection may have been the victim's
        folder, digest = packages["2"]
        assert server.deploy("tiny", folder, "2", digest).status_code == 200  # while it is away
        pids = members(server)
        time.sleep(0.3)
    assert victim not in pids
    assert set(others) < set(pids)
    assert set(load.answers) <= PAIRS
    assert len(load.failures) <= 4  # at most what the killed one had accepted: one a client
    assert versions(server) == {"2"}


def test_a_package_that_one_process_cannot_load_changes_nothing(server, tmp_path):
    digest = make_package(tmp_path / "broken", onnx_bytes=b"no graph")
    assert server.deploy("tiny", tmp_path / "broken", "3", digest).status_code == 422
    assert versions(server) == {"1"}


def test_all_processes_end_with_the_first(server):
    pids = members(server)
    assert server.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
