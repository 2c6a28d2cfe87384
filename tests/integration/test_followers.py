"""Real servers that follow a registry, and the target that deploys to them."""

import contextlib
import dataclasses
import os
import signal
import socket
import time

import pytest
from free_ports import free_port
from registry_server import model_registry
from serving_process import Load, Server
from test_serving_process import ask_tiny
from tiny_packages import make_package

from lepton_tasks.core.artifacts import ModelVersionRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, UnavailableError
from lepton_tasks.core.release_protocols import DeployTarget, Registered
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.deployment.followers import FollowersTarget, replicas_of
from lepton_tasks.stages.deploy import still_serving, target_of

USE_CASE = parse_use_case(
    {"name": "tiny", "task": "image_classification", "data": {"source": "s"}, "features": "f", "model": "m"}, where=""
)
EVERY = 0.1  # seconds between two looks at the registry
TARGET = FollowersTarget()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Versions 1 to 3 of "tiny", and one that is damaged, 4."""
    tmp_path = tmp_path_factory.mktemp("packages")
    with model_registry() as registry:
        for i in range(1, 5):
            registry.add("tiny", str(i), tmp_path / f"p{i}", make_package(tmp_path / f"p{i}", offset=i / 10))
        (tmp_path / "p4" / "card.md").write_text("another text")
        yield registry


@contextlib.contextmanager
def follower(home, registry, *options, port=None):
    home.mkdir(exist_ok=True)
    server = Server(home, port or free_port(), "--follow", registry.url, "--follow-every", str(EVERY), *options)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def servers(tmp_path_factory, registry):
    tmp_path = tmp_path_factory.mktemp("servers")
    with follower(tmp_path / "a", registry) as a, follower(tmp_path / "b", registry) as b:
        yield a.wait_ready(), b.wait_ready()


@pytest.fixture
def ctx(tmp_path, registry, servers, monkeypatch):
    monkeypatch.setattr("lepton_tasks.deployment.followers._POLL_SECONDS", 0.1)
    serving = {"target": "followers", "replicas": [server.url for server in servers], "patience": 60}
    return RunContext.local(
        tmp_path / "state", run_id="r1", tracking_url=registry.url, serving_url=servers[0].url, serving=serving
    )


def given(ctx, patience):
    serving = ctx.environment.serving.model_copy(update={"patience": patience})
    return dataclasses.replace(ctx, environment=ctx.environment.model_copy(update={"serving": serving}))


def deploy(ctx, registry, version):
    folder, digest = registry.packages["tiny", version]
    return TARGET.deploy(USE_CASE, ctx, Registered(version, digest, lambda: folder))


def versions(servers):
    return [server.http.get("/v1/models").json()["models"][0].get("version") for server in servers]


def test_a_release_is_on_every_replica_or_on_none_and_no_request_fails(ctx, registry, servers):
    assert isinstance(target_of(USE_CASE, ctx), FollowersTarget)
    assert isinstance(TARGET, DeployTarget)
    assert TARGET.health(USE_CASE, ctx)["version"] is None
    first = deploy(ctx, registry, "1")
    assert (first["version"], first["previous"], first["changed"]) == ("1", None, True)
    with Load(servers[0], ask_tiny, threads=2) as load:
        second = deploy(ctx, registry, "2")
        assert (second["previous"], versions(servers)) == ("1", ["2", "2"])
        assert registry.aliases["tiny"] == {"champion": "2", "previous": "1"}
        assert deploy(ctx, registry, "2")["changed"] is False

        with pytest.raises(ArtifactError, match=r"[12] of 2 replicas refuse version 4 of tiny: .*card\.md is missing"):
            deploy(ctx, registry, "4")
        assert registry.aliases["tiny"] == {"champion": "2", "previous": "1"}
        assert versions(servers) == ["2", "2"]

        back = TARGET.rollback(USE_CASE, ctx)
        assert (back["version"], back["undone"], versions(servers)) == ("1", "2", ["1", "1"])
        assert registry.aliases["tiny"] == {"champion": "1"}
    assert load.failures == []
    assert set(load.answers) == {("1", 0.1), ("2", 0.2)}

    TARGET.remove(USE_CASE, ctx)
    assert (registry.aliases["tiny"], TARGET.health(USE_CASE, ctx)["ready"]) == ({}, False)
    assert all(server.predict("tiny", b"").status_code == 404 for server in servers)


def test_a_replica_that_is_away_or_refuses_is_named_and_the_alias_goes_back(ctx, registry, servers, monkeypatch):
    monkeypatch.setattr("lepton_tasks.deployment.followers._SETTLE_SECONDS", 0.5)
    deploy(ctx, registry, "1")
    os.kill(servers[1].process.pid, signal.SIGSTOP)  # it hangs: connections are taken, nothing is said
    monkeypatch.setattr("lepton_tasks.deployment.followers._TIMEOUT_SECONDS", 0.3)
    with pytest.raises(UnavailableError, match=rf"of 2 replicas .* version 2 .*{servers[1].url} does not answer"):
        deploy(given(ctx, 2), registry, "2")
    assert registry.aliases["tiny"] == {"champion": "1"}
    assert (TARGET.health(USE_CASE, ctx)["ready"], TARGET.health(USE_CASE, ctx)["version"]) == (False, "1")
    os.kill(servers[1].process.pid, signal.SIGCONT)

    models = servers[1].home / "models" / "tiny"
    deploy(ctx, registry, "3")
    models.rename(models.with_name("kept"))  # its disk fails: nothing can be placed there
    models.write_text("")
    with pytest.raises(ArtifactError, match=rf"1 of 2 replicas refuse version 2 of tiny: {servers[1].url}"):
        deploy(ctx, registry, "2")
    models.unlink()
    models.with_name("kept").rename(models)
    # What was refused then does not count now.
    assert deploy(ctx, registry, "2")["version"] == "2"
    endpoint = ModelVersionRef(uri="x", digest="x", stage="deploy", facts={"version": "2", "package_digest": "x"})
    assert not still_serving(USE_CASE, ctx, endpoint)


def test_a_new_replica_is_ready_once_it_serves_every_champion(tmp_path, registry):
    registry.aliases["tiny"]["champion"] = "4"  # damaged
    registry.add("elses", "1", tmp_path / "none", None)  # of somebody else: without a package of ours
    registry.aliases["elses"]["champion"] = "1"
    with follower(tmp_path / "a", registry) as server:
        deadline = time.monotonic() + 60
        while "refused" not in (reason := reason_of(server)):
            assert time.monotonic() < deadline, reason
            time.sleep(0.05)
        assert "version 4 is refused" in reason
        assert server.http.get("/v2/health/live").status_code == 200
        registry.aliases["tiny"]["champion"] = "2"
        server.wait_ready()
        assert server.http.get("/v1/models/tiny").json()["version"] == "2"
        registry.aliases["tiny"]["champion"] = "4"  # later, a damaged one does not end its service
        time.sleep(1)
        assert (reason_of(server), versions([server])) == ("", ["2"])
        registry.away = True
        server.stop(signal.SIGKILL)
        with follower(tmp_path / "a", registry, port=server.port) as again:  # what it has on its disk is enough
            again.wait_ready()
            assert versions([again]) == ["2"]
        with follower(tmp_path / "b", registry) as empty:
            deadline = time.monotonic() + 60
            while "cannot be followed" not in (reason := reason_of(empty)):
                assert time.monotonic() < deadline, reason
                time.sleep(0.05)
            registry.aliases["tiny"]["champion"], registry.away = "1", False
            empty.wait_ready()
            assert versions([empty]) == ["1"]


def reason_of(server):
    with contextlib.suppress(Exception):
        return server.http.get("/v2/health/ready").json().get("reason", "")
    return "it does not answer"


def test_a_server_that_is_told_to_stop_lingers_until_nobody_sends_to_it(tmp_path, registry):
    registry.aliases["tiny"]["champion"] = "1"
    with follower(tmp_path / "a", registry, "--linger", "2", "--processes", "2") as server:
        server.wait_ready()
        with Load(server, ask_tiny, threads=4) as load:
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)  # again: some supervisors do
            before = sum(load.answers.values())
            reply = server.predict("tiny", b"no picture")
            assert (reply.status_code, reply.headers["connection"]) == (400, "close")
            ready = server.http.get("/v2/health/ready")
            assert (ready.status_code, ready.headers["connection"]) == (503, "close")
            assert "stopping" in ready.json()["reason"]
            time.sleep(0.7)  # as long as a load balancer takes; nobody asks any more then
        assert sum(load.answers.values()) > before
        assert load.failures == []
        assert server.process.wait(30) == 0


def test_a_name_stands_for_all_that_it_resolves_to(ctx, monkeypatch):
    found = [(2, 1, 6, "", (host, 8100)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    serving = ctx.environment.serving.model_copy(update={"replicas": "https://replicas.svc:8100"})
    assert replicas_of(serving) == [
        ("https://10.0.0.1:8100", "replicas.svc:8100"),
        ("https://10.0.0.2:8100", "replicas.svc:8100"),
    ]

    def nobody(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(UnavailableError, match="no replica is ready"):
        replicas_of(serving)


def test_a_canary_is_refused_before_anything_is_touched(ctx, registry):
    deploying = USE_CASE.deploy.model_copy(
        update={"rollout": USE_CASE.deploy.rollout.model_copy(update={"kind": "canary"})}
    )
    use_case = USE_CASE.model_copy(update={"deploy": deploying})
    before = dict(registry.aliases["tiny"])
    with pytest.raises(ConfigError, match="'canary' is not possible"):
        TARGET.deploy(use_case, ctx, Registered("1", *reversed(registry.packages["tiny", "1"])))
    assert registry.aliases["tiny"] == before
