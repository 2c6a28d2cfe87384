import collections
import itertools
import json
import os
import re
import signal
import threading
import time

import httpx
import pytest
from free_ports import free_port
from serving_process import Load, Server, serving
from tiny_packages import make_package, picture

from lepton_tasks.serving.client import Client
from lepton_tasks.serving.observing.request_log import read_requests


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Package i answers a black picture with light = i / 10."""
    root = tmp_path_factory.mktemp("packages")
    return [(root / str(i), make_package(root / str(i), offset=i / 10)) for i in range(4)]


def light(reply):
    return round(reply["predictions"][0]["probabilities"]["light"], 4)


def ask_tiny(http):
    reply = http.post("/v1/models/tiny/predict", content=picture(0), headers={"content-type": "image/png"})
    reply.raise_for_status()
    return reply.json()["version"], light(reply.json())


def test_swaps_under_load_drop_nothing_and_never_mix_versions(tmp_path, packages):
    with serving(tmp_path / "home") as server:
        assert server.deploy("tiny", packages[0][0], "0", packages[0][1]).status_code == 200
        corrupt = tmp_path / "corrupt"
        corrupt_digest = make_package(corrupt, onnx_bytes=b"not a graph")
        with Load(server, ask_tiny, threads=6) as load:
            for i, _ in zip(itertools.cycle([1, 2, 3]), range(24), strict=False):
                assert server.deploy("tiny", packages[i][0], str(i), packages[i][1]).status_code == 200
                refused = server.deploy("tiny", corrupt, "9", corrupt_digest)
                assert (refused.status_code, "ONNX Runtime refuses" in refused.json()["error"]) == (422, True)
            for _ in range(3):
                server.http.post("/admin/models/tiny/rollback", headers=server.admin_headers).raise_for_status()
                assert server.deploy("tiny", packages[3][0], "3", packages[3][1]).status_code == 200
    assert load.failures == []
    assert set(load.answers) <= {(str(i), i / 10) for i in range(4)}
    assert {version for version, _ in load.answers} >= {"1", "2", "3"}
    assert sum(load.answers.values()) >= 300
    actions = [
        json.loads(line)["action"] for line in (tmp_path / "home" / "deployments.jsonl").read_text().splitlines()
    ]
    assert collections.Counter(actions) == {"deploy": 28, "rollback": 3}


def test_sigterm_answers_what_it_took_and_loses_no_record(tmp_path, packages):
    with serving(tmp_path / "home") as server:
        server.deploy("tiny", packages[1][0], "1", packages[1][1]).raise_for_status()
        with Load(server, ask_tiny, threads=6) as load:
            while sum(load.answers.values()) < 200:
                time.sleep(0.01)
            os.kill(server.process.pid, signal.SIGTERM)
            assert server.process.wait(30) == 0
    # What came too late was turned away at the door; what was taken in was answered, and every answer is on record.
    assert all(isinstance(failure, httpx.TransportError) for failure in load.failures)
    records = list(read_requests(tmp_path / "home" / "requests", "tiny"))
    assert len(records) == sum(load.answers.values()) >= 200
    assert {(r["status"], r["version"]) for r in records} == {(200, "1")}


def test_a_crash_loses_at_most_the_last_second(tmp_path, packages):
    with serving(tmp_path / "home") as server:
        server.deploy("tiny", packages[1][0], "1", packages[1][1]).raise_for_status()
        for _ in range(20):
            server.predict("tiny", picture(0)).raise_for_status()
        time.sleep(1.0)
        server.stop(signal.SIGKILL)
    assert len(list(read_requests(tmp_path / "home" / "requests", "tiny"))) == 20


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_serves_the_same_version(tmp_path, packages, with_signal):
    home, port = tmp_path / "home", free_port()
    with serving(home, port) as server:
        for i in (1, 2):
            server.deploy("tiny", packages[i][0], str(i), packages[i][1]).raise_for_status()
        token = (home / "admin.token").read_text()
        server.stop(with_signal)
    with serving(home, port) as server:
        with Client(server.url) as client:
            assert light(client.predict("tiny", picture(0))) == 0.2
            (model,) = client.models()
            assert (model["version"], model["previous"], client.ready()) == ("2", "1", True)
        assert (home / "admin.token").read_text() == token
        back = server.http.post("/admin/models/tiny/rollback", headers=server.admin_headers)
        assert back.json()["version"] == "1"
        assert light(server.predict("tiny", picture(0)).json()) == 0.1


def test_a_second_server_of_the_same_folder_is_refused(tmp_path):
    with serving(tmp_path / "home"):
        second = Server(tmp_path / "home", free_port())
        second.http.close()
        assert second.process.wait(30) == 1
    assert "another server uses this folder" in second.log.read_text()


def test_a_taken_port_ends_the_server_with_a_reason(tmp_path):
    with serving(tmp_path / "home") as server:
        (tmp_path / "other").mkdir()
        second = Server(tmp_path / "other", server.port)
        second.http.close()
        assert second.process.wait(30) != 0
    assert re.search(r"address already in use", second.log.read_text())


def test_a_slow_picture_does_not_hold_up_health(tmp_path, packages):
    """Decoding happens in the worker: while large pictures queue up, the event loop answers at once."""
    big = picture(7, side=4000)
    with serving(tmp_path / "home") as server:
        server.deploy("tiny", packages[1][0], "1", packages[1][1]).raise_for_status()
        threads = [threading.Thread(target=lambda: server.predict("tiny", big)) for _ in range(8)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        waits = []
        while any(thread.is_alive() for thread in threads):
            asked = time.monotonic()
            httpx.get(f"{server.url}/v2/health/live", trust_env=False).raise_for_status()
            waits.append(time.monotonic() - asked)
        total = time.monotonic() - started
    assert sorted(waits)[len(waits) // 2] < total / 4
