"""Several versions of a model on the real server: the split, canaries that decide by themselves, swaps, rollback."""

import itertools
import json
import os
import random
import subprocess
import sys
import time

import pytest
from registry_server import model_registry
from serving_process import Load, serving
from tiny_packages import make_package, picture

BAD = 400
PICTURES = [picture(grey) for grey in range(256)]
QUICK = {"kind": "canary", "steps": [50, 100], "step_seconds": 0.5, "min_requests": 60}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Package i says light = grey / 510 + i / 1000, so a reply tells which version computed it."""
    root = tmp_path_factory.mktemp("packages")
    return {i: (root / str(i), make_package(root / str(i), offset=i / 1000)) for i in (*range(21), BAD)}


@pytest.fixture(scope="module")
def registry(packages):
    with model_registry() as registry:
        for name, i in itertools.product(("split", "swaps", "good", "bad", "back", "shadow", "followed"), packages):
            registry.add(name, str(i), *packages[i])
        yield registry


@pytest.fixture(scope="module")
def server(tmp_path_factory, registry):
    home = tmp_path_factory.mktemp("state") / "serving"
    with serving(home, options=["--follow", registry.url, "--follow-every", "0.2"]) as server:
        yield server


def deploy(server, packages, name, i, **rollout):
    folder, digest = packages[i]
    body = {"package": str(folder), "version": str(i), "digest": digest, "rollout": rollout}
    reply = server.http.post(f"/admin/models/{name}", json=body, headers=server.admin_headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def about(server, name):
    return server.http.get(f"/v1/models/{name}").json()


def ask(http, name, key=None, grey=0):
    headers = {"content-type": "image/png", **({"lepton-key": key} if key else {})}
    reply = http.post(f"/v1/models/{name}/predict", content=PICTURES[grey], headers=headers)
    reply.raise_for_status()
    value = reply.json()
    assert reply.headers["lepton-version"] == value["version"]
    return value["version"], round((value["predictions"][0]["probabilities"]["light"] - grey / 510) * 1000)


def asking(name):
    """What `Load` calls: ask this model for some grey picture."""
    return lambda http: ask(http, name, grey=random.randrange(256))


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def records(server, name):
    lines = (server.home / "deployments.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["model"] == name]


def test_a_canary_gets_its_share_and_keys_stick(server, packages):
    deploy(server, packages, "split", 1)
    deploy(server, packages, "split", 2, kind="canary", steps=[20, 100], step_seconds=3600, max_drift=1e9)
    first = {f"user {i}": ask(server.http, "split", f"user {i}") for i in range(400)}
    assert set(first.values()) == {("1", 1), ("2", 2)}
    share = sum(pair == ("2", 2) for pair in first.values())
    assert abs(share - 80) < 4 * (400 * 0.2 * 0.8) ** 0.5  # 4 standard deviations of the binomial
    again = {key: ask(server.http, "split", key) for key in list(first)[:100]}
    assert again.items() <= first.items()
    for version in ("1", "2"):
        path = f"/v1/models/split/versions/{version}/predict"
        reply = server.http.post(path, content=picture(0), headers={"content-type": "image/png"})
        assert reply.json()["version"] == version
        assert server.http.get(f"/v2/models/split/versions/{version}/ready").status_code == 200


def test_two_hundred_swaps_under_load_mix_nothing_up(server, packages):
    current = int(deploy(server, packages, "swaps", 0)["version"])
    with Load(server, asking("swaps"), threads=3) as load:
        for i in range(200):
            if i % 10 == 9:
                path = "/admin/models/swaps/rollback"
                reply = server.http.post(path, headers=server.admin_headers).raise_for_status()
                current = int(reply.json()["version"])
            elif i % 10 == 4:
                deploy(server, packages, "swaps", 3, kind="canary", steps=[50], step_seconds=3600)
            else:
                current = int(deploy(server, packages, "swaps", (current + 1) % 3)["version"])
    assert load.failures == []
    assert all(int(version) == told for version, told in load.answers)
    assert len(load.answers) >= 4
    assert sum(load.answers.values()) >= 200
    assert len(records(server, "swaps")) == 201


def test_a_good_canary_is_promoted_and_the_registry_told(server, packages, registry):
    deploy(server, packages, "good", 3)
    registry.aliases["good"]["champion"] = "3"
    deploy(server, packages, "good", 4, **QUICK)
    with Load(server, asking("good"), threads=2) as load:
        until(lambda: about(server, "good")["version"] == "4")
    assert load.failures == []
    assert set(load.answers) == {("3", 3), ("4", 4)}
    assert [r["action"] for r in records(server, "good")] == ["deploy", "canary", "step", "promote"]
    told = records(server, "good")[-1]
    assert told["figures"]["challenger"]["requests"] >= 60
    assert told["figures"]["challenger"]["p95_ms"] > 0
    until(lambda: registry.aliases["good"] == {"champion": "4", "previous": "3"})


def test_a_bad_canary_is_taken_back_by_what_it_answers(server, packages):
    deploy(server, packages, "bad", 2)
    deploy(server, packages, "bad", BAD, **QUICK)  # it says light where the champion says dark
    with Load(server, asking("bad"), threads=2) as load:
        until(lambda: about(server, "bad")["challenger"] is None)
        answered = sum(load.answers.values())
        until(lambda: sum(load.answers.values()) > answered + 20)
    assert load.failures == []
    assert about(server, "bad")["version"] == "2"
    told = records(server, "bad")[-1]
    assert (told["action"], told["version"], told["weight"]) == ("back", str(BAD), 0.5)
    assert "its labels differ from the champion's" in told["reason"]


def test_a_shadow_compares_and_no_answer_is_its_own(server, packages):
    deploy(server, packages, "shadow", 1)
    deploy(server, packages, "shadow", 2, kind="shadow", share=100)
    for _ in range(50):
        assert ask(server.http, "shadow") == ("1", 1)

    def compared():
        progress = about(server, "shadow")["challenger"]["progress"]
        return progress if progress and progress["rows"] + progress["dropped"] >= 50 else None

    found = until(compared)
    assert (found["agreement"], found["errors"]) == (1.0, 0)
    assert found["mean_absolute_difference"] == pytest.approx(0.001, abs=1e-5)


def test_lepton_rollback_takes_less_than_a_second_and_moves_the_alias(server, packages, registry):
    deploy(server, packages, "back", 1)
    deploy(server, packages, "back", 2)
    registry.aliases["back"] |= {"champion": "2", "previous": "1"}
    variables = {
        **os.environ,
        "LEPTON_HOME": str(server.home.parent),
        "LEPTON_SERVING_URL": server.url,
        "LEPTON_TRACKING_URL": registry.url,
    }
    command = [sys.executable, "-m", "lepton_tasks.cli", "rollback", "back", "--json"]
    with Load(server, asking("back"), threads=1) as load:
        ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["version"], found["undone"]) == ("1", "2")
    assert found["seconds"] < 1
    assert registry.aliases["back"] == {"champion": "1"}
    assert load.failures == []
    assert set(load.answers) <= {("1", 1), ("2", 2)}
    assert ask(server.http, "back") == ("1", 1)


def test_the_registry_is_followed_and_its_last_good_package_outlives_it(server, packages, registry, tmp_path):
    registry.aliases["followed"]["champion"] = "5"
    until(lambda: server.http.get("/v1/models/followed").status_code == 200)
    assert ask(server.http, "followed") == ("5", 5)
    server.stop()
    with serving(server.home, options=["--follow", "http://127.0.0.1:9", "--follow-every", "0.1"]) as alone:
        assert ask(alone.http, "followed") == ("5", 5)
        time.sleep(0.5)
        assert about(alone, "followed")["version"] == "5"
