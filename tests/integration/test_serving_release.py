"""Deploy, smoke test and monitor against the real server and a real MLflow registry (SQLite, in this process)."""

import dataclasses
import json
import time

import pytest
from mlflow import MlflowClient
from serving_process import serving
from tiny_packages import make_package, picture

from lepton_tasks.core.artifacts import EvaluationRef, ModelPackageRef, ModelVersionRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, GateError, UnavailableError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.use_case import Deploy, parse_use_case
from lepton_tasks.serving.access.keys import KEYS_FILE, add_key
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.errors import ForbiddenError
from lepton_tasks.stages.deploy import deploy, still_serving
from lepton_tasks.stages.monitor import monitor
from lepton_tasks.stages.smoke_test import smoke_test
from lepton_tasks.tracking.mlflow import Tracker

USE_CASE = parse_use_case(
    {"name": "tiny", "task": "image_classification", "data": {"source": "s"}, "features": "f", "model": "m"}, where=""
)


@pytest.fixture(scope="module")
def tracking_url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    MlflowClient(url, url).search_experiments()  # makes the tables
    return url


@pytest.fixture
def registry(tracking_url):
    client = MlflowClient(tracking_url, tracking_url)
    client.create_registered_model("tiny")
    for _ in range(3):
        client.create_model_version("tiny", source="/nowhere")
    yield client
    client.delete_registered_model("tiny")


@pytest.fixture
def ctx(tmp_path, tracking_url, registry):
    with serving(tmp_path / "serving") as server:
        yield RunContext.local(tmp_path, run_id="test", serving_url=server.url, tracking_url=tracking_url)


def at(ctx, stage, mark):
    return dataclasses.replace(ctx, stage=stage, fingerprint=mark, force=True)


def released(ctx, version, **options):
    """A published package of this version, which answers black with light = version / 10, and its registry entry."""
    draft = at(ctx, "export", version).draft()
    make_package(draft.path, offset=int(version) / 10, **options)
    package = draft.publish(ModelPackageRef)
    facts = {"name": "tiny", "version": version, "package_digest": package.digest}
    return at(ctx, "register", version).draft().publish(ModelVersionRef, facts), package


def passed(ctx):
    """What a gate found that has just compared with the champion."""
    champion = Tracker(ctx.environment.tracking_url).champion("tiny")
    facts = {"passed": True, "champion": champion.version if champion else None}
    return EvaluationRef(uri="store://gate/1", digest="1", stage="gate", facts=facts)


def deployed(ctx, version, **options):
    model_version, package = released(ctx, version, **options)
    return deploy(
        USE_CASE, at(ctx, "deploy", version), model_version=model_version, package=package, verdict=passed(ctx)
    ), package


def aliases(registry):
    return {alias: str(version) for alias, version in registry.get_registered_model("tiny").aliases.items()}


def answers(ctx):
    with Client(ctx.environment.serving_url) as client:
        reply = client.predict("tiny", picture(0))
    return reply["version"], round(reply["predictions"][0]["probabilities"]["light"], 4)


def test_a_release_moves_endpoint_and_aliases_together(ctx, registry):
    endpoint, package = deployed(ctx, "1")
    assert endpoint.facts == {
        "url": ctx.environment.serving_url,
        "version": "1",
        "target": "process",
        "package_digest": package.digest,
        "package_uri": package.uri,
        "previous_version": None,
        "role": "champion",
    }
    report = smoke_test(USE_CASE, at(ctx, "smoke_test", "1"), endpoint=endpoint, package=package)
    assert report.facts == {"version": "1", "difference": pytest.approx(0, abs=1e-5)}
    assert (answers(ctx), aliases(registry)) == (("1", 0.1), {"champion": "1"})

    registry.set_registered_model_alias("tiny", "challenger", "2")  # as the stage `register` does
    second, package = deployed(ctx, "2")
    smoke_test(USE_CASE, at(ctx, "smoke_test", "2"), endpoint=second, package=package)
    assert (answers(ctx), aliases(registry)) == (("2", 0.2), {"champion": "2", "previous": "1"})
    assert second.facts["previous_version"] == "1"
    assert still_serving(USE_CASE, ctx, second)
    assert not still_serving(USE_CASE, ctx, endpoint)


def test_a_server_with_keys_lets_the_stages_in_and_nobody_else(ctx):
    add_key(ctx.root / "serving" / KEYS_FILE, "shop", now=0)
    time.sleep(1.1)  # until the running server has looked at its keys again
    with pytest.raises(ForbiddenError):
        answers(ctx)
    endpoint, package = deployed(ctx, "1")
    smoke_test(USE_CASE, at(ctx, "smoke_test", "1"), endpoint=endpoint, package=package)
    assert still_serving(USE_CASE, ctx, endpoint)
    with pytest.raises(ForbiddenError):
        answers(ctx)


def by(**rollout):
    return USE_CASE.model_copy(update={"deploy": Deploy(rollout=Rollout(**rollout))})


def test_a_canary_leaves_the_champion_its_alias_and_is_asked_by_its_number(ctx, registry):
    deployed(ctx, "1")
    model_version, package = released(ctx, "2")
    canary = by(kind="canary", steps=(1, 100), step_seconds=3600)
    endpoint = deploy(canary, at(ctx, "deploy", "2"), model_version=model_version, package=package, verdict=passed(ctx))
    assert (endpoint.facts["version"], endpoint.facts["previous_version"], endpoint.facts["role"]) == (
        *("2", "1"),
        "challenger",
    )
    report = smoke_test(canary, at(ctx, "smoke_test", "2"), endpoint=endpoint, package=package)
    assert report.facts["version"] == "2"
    assert still_serving(canary, ctx, endpoint)
    assert aliases(registry) == {"champion": "1", "challenger": "2"}
    with Client(ctx.environment.serving_url) as client:
        (model,) = client.models()
    assert (model["version"], model["challenger"]["version"], model["challenger"]["weight"]) == ("1", "2", 0.01)


def test_a_challenger_that_fails_its_smoke_test_is_taken_away_and_the_champion_stays(ctx, registry):
    deployed(ctx, "1")
    model_version, package = released(ctx, "2", expects=wrong_example())
    shadow = by(kind="shadow")
    endpoint = deploy(shadow, at(ctx, "deploy", "2"), model_version=model_version, package=package, verdict=passed(ctx))
    with pytest.raises(GateError, match="It is no longer the challenger of version 1"):
        smoke_test(shadow, at(ctx, "smoke_test", "2"), endpoint=endpoint, package=package)
    assert not still_serving(shadow, ctx, endpoint)
    assert (answers(ctx), aliases(registry)["champion"]) == (("1", 0.1), "1")


def wrong_example(label="dark", light=0.2):
    return {"label": label, "probability": 0.8, "probabilities": {"dark": 1 - light, "light": light}}


@pytest.mark.parametrize("expects", [wrong_example(), wrong_example("light", 0.51)], ids=["label", "probability"])
def test_a_failed_smoke_test_brings_the_previous_version_back(ctx, registry, expects):
    deployed(ctx, "1")
    endpoint, package = deployed(ctx, "2", expects=expects)
    with pytest.raises(GateError, match="Version 1 is served again"):
        smoke_test(USE_CASE, at(ctx, "smoke_test", "2"), endpoint=endpoint, package=package)
    assert (answers(ctx), aliases(registry)) == (("1", 0.1), {"champion": "1"})
    assert ctx.store.find("smoke_test", "2") is None


def test_a_failed_smoke_test_of_the_first_version_takes_it_away(ctx, registry):
    endpoint, package = deployed(ctx, "1", expects=wrong_example())
    with pytest.raises(GateError, match="none is served"):
        smoke_test(USE_CASE, at(ctx, "smoke_test", "1"), endpoint=endpoint, package=package)
    with Client(ctx.environment.serving_url) as client:
        assert client.models() == []
    assert aliases(registry) == {}


def test_a_version_that_another_run_has_replaced_is_left_alone(ctx, registry):
    first, package = deployed(ctx, "1")
    deployed(ctx, "2")
    with pytest.raises(GateError, match="Version 2 is served, which this run did not deploy"):
        smoke_test(USE_CASE, at(ctx, "smoke_test", "1"), endpoint=first, package=package)
    assert (answers(ctx), aliases(registry)) == (("2", 0.2), {"champion": "2", "previous": "1"})


def test_a_corrupt_package_is_refused_and_the_champion_stays(ctx, registry):
    deployed(ctx, "1")
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses"):
        deployed(ctx, "2", onnx_bytes=b"not a graph")
    assert (answers(ctx), aliases(registry)) == (("1", 0.1), {"champion": "1"})


@pytest.mark.parametrize("before", [None, "1"])
def test_if_the_alias_cannot_be_set_the_endpoint_goes_back(ctx, registry, monkeypatch, before):
    if before:
        deployed(ctx, before)
    set_alias = Tracker.set_alias

    def away(self, name, alias, version):
        if alias == "champion":
            raise UnavailableError("MLflow does not answer.")
        set_alias(self, name, alias, version)

    monkeypatch.setattr(Tracker, "set_alias", away)
    with pytest.raises(UnavailableError, match="MLflow does not answer"):
        deployed(ctx, "2")
    with Client(ctx.environment.serving_url) as client:
        assert [model["version"] for model in client.models()] == ([before] if before else [])
    monkeypatch.undo()
    deployed(ctx, "2")  # the retry
    assert answers(ctx) == ("2", 0.2)
    assert aliases(registry)["champion"] == "2"


def test_with_mlflow_away_nothing_is_touched(ctx, registry):
    deployed(ctx, "1")
    gone = dataclasses.replace(
        ctx, environment=ctx.environment.model_copy(update={"tracking_url": "http://127.0.0.1:9"})
    )
    with pytest.raises(UnavailableError):
        deployed(gone, "2")
    assert (answers(ctx), aliases(registry)) == (("1", 0.1), {"champion": "1"})


def test_the_monitor_judges_what_was_asked_since_it_last_looked(ctx, registry):
    endpoint, package = deployed(ctx, "1")
    smoke_test(USE_CASE, at(ctx, "smoke_test", "1"), endpoint=endpoint, package=package)

    asked = USE_CASE.monitor[0].model_copy(update={"params": {"least": 20}})
    data_quality = USE_CASE.model_copy(update={"monitor": (asked,)})

    def findings():
        ref = monitor(data_quality, at(ctx, "monitor", "m"), endpoint=endpoint)
        return json.loads((ctx.open(ref) / "findings.json").read_text())

    assert [f["message"] for f in findings()] == ["no requests yet"]  # the smoke test is none
    with Client(ctx.environment.serving_url) as client:
        for _ in range(18):
            client.predict("tiny", picture(0, noise=True))
        for payload in (b"broken", b"broken too", picture(3)):
            try:
                client.predict("tiny", payload)
            except ValueError:
                continue
    time.sleep(1.0)  # the log is written every half second
    refused, unsure, blank = findings()
    assert (refused["severity"], refused["value"]) == ("warning", pytest.approx(2 / 21))
    assert (unsure["severity"], unsure["value"]) == ("ok", 0.0)
    assert (blank["severity"], blank["value"]) == ("warning", pytest.approx(1 / 19))
    assert "9.5% of 21 samples got no answer (limit 5.0%)" in refused["message"]
    assert (ctx.root / "monitoring" / "tiny" / "docs" / "index.html").exists()
    assert [f["message"] for f in findings()] == ["no requests since the last check"]
