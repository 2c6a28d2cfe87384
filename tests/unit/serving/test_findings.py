"""The server tells Prometheus what the monitors of the same state folder found."""

import shutil

from alerts import USE_CASE, at, drift, errors
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import Finding
from lepton_tasks.monitoring.alert import record
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.observing.findings import exposed_findings

NOTHING = Finding(monitor="drift", severity="ok", message="no requests", unit="PSI")


def series(text):
    """Values by name and labels, of findings alone."""
    return {
        (sample.name.removeprefix("lepton_finding_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lepton_finding_")
    }


def test_metrics_tell_the_latest_check_of_each_model(tmp_path):
    home = tmp_path / "serving"
    home.mkdir()
    with TestClient(create_app(home)) as client:
        assert series(client.get("/metrics").text) == {}
        ctx = at(RunContext.local(tmp_path), 0)
        record(USE_CASE, ctx, [drift("warning"), errors("ok")], version="3")
        assert series(client.get("/metrics").text) == {
            ("severity", "wine", "drift"): 1,
            ("severity", "wine", "performance"): 0,
            ("value", "wine", "drift", "alcohol", "PSI"): 0.31,
            ("value", "wine", "performance", "", "share"): 0.07,
            ("timestamp_seconds", "wine", "3"): ctx.clock().timestamp(),
        }
        record(USE_CASE, at(ctx, 60), [NOTHING], version="3")
        found = series(client.get("/metrics").text)
        assert found["severity", "wine", "drift"] == 1  # nothing could be judged, so it lasts
        assert found["timestamp_seconds", "wine", "3"] == ctx.clock().timestamp() + 60
        assert "lepton_model_info" in client.get("/metrics").text


def test_a_book_that_cannot_be_read_costs_no_other_and_series_are_bounded(tmp_path):
    many = [Finding(monitor="drift", severity="critical", message="", subject=f"c{i}", value=i) for i in range(200)]
    record(USE_CASE, RunContext.local(tmp_path), many, version="3")
    book = tmp_path / "monitoring" / "wine" / "watch.json"
    for name, text in {"torn": book.read_text()[:-9], "list": "[]", "other": '{"findings": [1]}'}.items():
        folder = tmp_path / "monitoring" / name
        folder.mkdir()
        (folder / "watch.json").write_text(text)
    found = series(exposed_findings(tmp_path / "monitoring").decode())
    assert {labels[1] for labels in found} == {"wine"}
    assert len(found) == 50 + 2
    shutil.rmtree(tmp_path / "monitoring")
    assert exposed_findings(tmp_path / "monitoring") == b""
