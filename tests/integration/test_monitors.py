"""All monitors on a real server: what it is asked, what it is told was right, and what it uses."""

import dataclasses
import time

import pytest
from serving_process import serving
from tiny_packages import LABELS, picture
from watched_model import lights, tiny_package

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import FINDINGS_FILE, Finding
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.serving.client import Client
from lepton_tasks.stages.monitor import monitor

USE_CASE = parse_use_case(
    {
        "name": "tiny",
        "task": "image_classification",
        "data": {"source": "s"},
        "features": "f",
        "model": "m",
        "gate": {"thresholds": {"accuracy": 0.4}},
        "monitor": ["drift", {"name": "performance", "params": {"max_p99_ms": 60_000}}, "resources", "energy"],
    },
    where="",
)


@pytest.fixture
def deployed(tmp_path):
    """The run's context, and the endpoint of a package with its reference, at a real server."""
    ctx = RunContext.local(tmp_path)
    package = tiny_package(ctx, training={"energy_estimate_wh": 0.5})
    with serving(tmp_path / "serving") as server:
        assert server.deploy("tiny", ctx.store.folder_at(package.uri), "1", package.digest).status_code == 200
        facts = {"url": server.url, "version": "1", "package_uri": package.uri, "package_digest": package.digest}
        yield ctx, EndpointRef(uri="store://deploy/d", digest="d", stage="deploy", facts=facts)


def test_shifted_requests_and_wrong_answers_are_found_and_ordinary_ones_are_not(deployed):
    ctx, endpoint = deployed
    with Client(endpoint.facts["url"]) as client:

        def checked(mark, seed, right, brightest=150):
            told = {}
            for light in lights(120, seed, brightest):
                reply = client.predict("tiny", picture(light))
                label = reply["predictions"][0]["label"]
                told[reply["id"]] = label if len(told) < 120 * right else LABELS[1 - LABELS.index(label)]
            client.feedback("tiny", told)
            time.sleep(1.0)  # the log is written every half second
            ref = monitor(USE_CASE, dataclasses.replace(ctx, stage="monitor", fingerprint=mark), endpoint=endpoint)
            found = [Finding(**values) for values in ctx.read_json(ref, FINDINGS_FILE)]
            return ctx.open(ref), {(one.monitor, one.subject): one for one in found}

        _, first = checked("m1", 2, right=0.6)
        report, second = checked("m2", 3, right=0.1, brightest=256)
    assert {finding.severity for finding in first.values()} == {"ok"}
    assert "distributed like the training data in 4 columns" in first["drift", ""].message  # one label is no contrast
    assert first["performance", "accuracy"].value == pytest.approx(0.6)
    assert first["resources", "refused"].value == 0
    assert 20 < first["resources", "memory"].value < 2_000  # MiB
    assert first["resources", "cpu"].value > 0
    assert first["energy", "training"].value == 0.5

    bad = {key: finding.severity for key, finding in second.items() if finding.severity != "ok"}
    assert bad == {
        ("drift", "brightness"): "critical",
        ("drift", "answers.probability"): "warning",
        ("performance", "accuracy"): "critical",
    }
    assert second["drift", "brightness"].message.endswith("in the training data")
    assert second["performance", "accuracy"].value == pytest.approx(0.1)
    assert {path.name for path in report.glob("*.png")} == {"drift.png", "performance.png", "resources.png"}
