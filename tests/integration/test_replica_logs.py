"""Two real servers that follow a registry, each with a log of its own; monitors and `lepton ab` read both."""

import contextlib
import dataclasses
import signal
import time

import pytest
import yaml
from free_ports import free_port
from registry_server import model_registry
from serving_process import Server
from tiny_packages import LABELS, picture
from watched_model import lights, tiny_package

from lepton_tasks.cli.release import comparison
from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import FINDINGS_FILE, Finding
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.monitoring.resources import Resources
from lepton_tasks.serving.access.keys import add_key
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.observing.request_log import read_requests
from lepton_tasks.stages.gathering import gather_requests
from lepton_tasks.stages.monitor import monitor

USE_CASE = parse_use_case(
    {
        "name": "tiny",
        "task": "image_classification",
        "data": {"source": "s"},
        "features": "f",
        "model": "m",
        "monitor": ["drift", "performance"],
    },
    where="",
)
EACH = 70  # requests to each server: both together are enough for the monitors, one server's are not


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The run's context, what is deployed, and functions that start, ask and restart the servers."""
    keys = tmp_path / "keys.json"
    monkeypatch.setenv("LEPTON_API_KEY", add_key(keys, "stages", now=0, models=["*", "/requests/*"])[0])
    shop = add_key(keys, "shop", now=0)[0]
    with model_registry() as registry, contextlib.ExitStack() as stack:
        ctx = RunContext.local(tmp_path / "state", run_id="r1", tracking_url=registry.url)
        package = tiny_package(ctx)
        registry.add("tiny", "1", ctx.store.folder_at(package.uri), package.digest)
        registry.aliases["tiny"]["champion"] = "1"

        def start(name, port):
            (tmp_path / name).mkdir(exist_ok=True)
            options = ("--follow", registry.url, "--follow-every", "0.1", "--keys", str(keys))
            with monkeypatch.context() as without_key:  # a server's own key would be one more
                without_key.delenv("LEPTON_API_KEY")
                server = Server(tmp_path / name, port, *options)
            stack.callback(server.stop, signal.SIGKILL)
            return server

        servers = [start(name, free_port()) for name in "ab"]
        serving = {"target": "followers", "replicas": [server.url for server in servers]}
        settings = {"tracking_url": registry.url, "serving_url": servers[0].url, "serving": serving}
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("LEPTON_ENVIRONMENT", str(tmp_path / "cluster.yaml"))
        monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
        ctx = RunContext.local(tmp_path / "state", run_id="r1", **settings)
        facts = {"url": servers[0].url, "version": "1", "package_uri": package.uri, "package_digest": package.digest}
        endpoint = EndpointRef(uri="store://deploy/d", digest="d", stage="deploy", facts=facts)
        for server in servers:
            server.wait_ready()
        yield ctx, endpoint, servers, start, shop


def test_monitors_and_ab_see_what_all_servers_answered_once(cluster):
    ctx, endpoint, servers, start, shop = cluster

    def ask(seed):
        """Ask both; each is told what was right of the other's answers, three of four."""
        with Client(servers[0].url) as one, Client(servers[1].url) as two:
            for client, other in ((one, two), (two, one)):
                told = {}
                for i, light in enumerate(lights(EACH, seed)):
                    reply = client.predict("tiny", picture(light))
                    label = reply["predictions"][0]["label"]
                    told[reply["id"]] = label if i % 4 else LABELS[1 - LABELS.index(label)]
                other.feedback("tiny", told)
        time.sleep(1.6)  # until it is written, and a second old

    def checked(mark):
        ref = monitor(USE_CASE, dataclasses.replace(ctx, stage="monitor", fingerprint=mark), endpoint=endpoint)
        return {
            (one.monitor, one.subject): one
            for one in (Finding(**values) for values in ctx.read_json(ref, FINDINGS_FILE))
        }

    def known():
        return [record["id"] for record in read_requests(ctx.root / "serving/requests", "tiny")]

    for key in (shop, "x"):
        reply = servers[0].http.get("/v1/requests/tiny", headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code in (401, 403)

    ask(2)
    first = checked("m1")
    assert {one.severity for one in first.values()} == {"ok"}
    assert first["endpoint", "request log"].message.startswith("the request logs of 2 servers are read")
    assert "distributed like the training data in 4 columns" in first["drift", ""].message
    right = EACH - len(range(0, EACH, 4))
    assert first["performance", "accuracy"].value == pytest.approx(right / EACH)
    assert "of 140 " in first["performance", "accuracy"].message
    assert len(known()) == len(set(known())) == 2 * EACH
    usage = {one.subject: one.message for one in Resources().check(USE_CASE, ctx, endpoint)}
    assert usage["server"] == "2 servers answer"
    assert f" of {2 * EACH} requests were refused" in usage["refused"]
    assert " (worst of 2): the server uses " in usage["memory"]

    # One is stopped and one is killed; both come back on their disks, and seal what they wrote.
    servers[0].stop(signal.SIGTERM)
    missing = gather_requests(USE_CASE, ctx)[0]
    assert (missing.severity, missing.value) == ("warning", 1)
    assert f"1 of 2 servers are not complete: {servers[0].url}: it does not answer" in missing.message
    servers[1].stop(signal.SIGKILL)
    servers[:] = [start(name, server.port) for name, server in zip("ab", servers, strict=True)]
    for server in servers:
        server.wait_ready()
    ask(3)
    found = comparison("tiny", hours=1)
    row = found["versions"]["1"]
    assert (row["answers"], row["judged"], row["accuracy"]) == (4 * EACH, 4 * EACH, pytest.approx(right / EACH))
    assert len(known()) == len(set(known())) == 4 * EACH
    second = checked("m2")
    assert "of 140 " in second["performance", "accuracy"].message  # what is new, and no more
    sealed = list((ctx.root / "serving/requests/tiny").glob("*.parquet"))
    assert len(sealed) == 2
