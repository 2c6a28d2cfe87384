"""Checks are shown in MLflow: figures over time, the report, the severity; with MLflow away they wait."""

import logging

import pytest
from alerts import USE_CASE, at, drift, errors
from registry_server import wine_registry

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import Finding
from lepton_tasks.monitoring import in_mlflow
from lepton_tasks.monitoring.alert import record
from lepton_tasks.monitoring.in_mlflow import figures_of
from lepton_tasks.tracking import mlflow

PSI = "monitoring/drift/alcohol PSI"


@pytest.fixture
def registry():
    with wine_registry() as running:
        yield running


@pytest.fixture
def ctx(tmp_path, registry):
    return RunContext.local(tmp_path, tracking_url=registry.url)


def show(use_case, ctx, findings, *, version, report=()):
    book = record(use_case, ctx, findings, version=version)
    in_mlflow.show(use_case, ctx, findings, book, version=version, report=report)


def test_figures_are_named_by_monitor_subject_and_unit():
    summary = {"monitor": "drift", "severity": "ok", "message": "", "unit": "PSI", "value": 0.2}
    energy = {"monitor": "energy", "severity": "warning", "message": "", "subject": "answers", "value": 2.0}
    findings = [
        Finding(**summary, figures={"a/b": 0.2, "größe (cm)": 0.1}),
        Finding(**energy, unit="Wh per 1,000 answers (energy_wh)"),
        Finding(monitor="performance", severity="ok", message="", unit="rmse", subject="rmse", value=float("inf")),
        Finding(monitor="performance", severity="ok", message="", unit="mae", subject="mae", value=3.0),
        Finding(monitor="data_quality", severity="ok", message="no requests yet", unit="requests"),
    ]
    severity = "severity 0 ok 1 warning 2 critical"
    assert figures_of(findings) == {
        "monitoring/drift/a_b PSI": 0.2,
        "monitoring/drift/größe cm PSI": 0.1,
        "monitoring/energy/answers Wh per 1000 answers energy_wh": 2.0,
        "monitoring/performance/mae": 3.0,
        f"monitoring/drift/{severity}": 0,
        f"monitoring/energy/{severity}": 1,
        f"monitoring/performance/{severity}": 0,
        f"monitoring/data_quality/{severity}": 0,
    }


def test_a_version_gets_figures_over_time_its_report_and_its_severity(ctx, registry, tmp_path):
    (tmp_path / "drift.png").write_bytes(b"picture")
    show(USE_CASE, at(ctx, 0), [drift("ok")], version="3")
    show(USE_CASE, at(ctx, 3600), [drift("warning"), errors()], version="3", report=[tmp_path / "drift.png"])
    assert [(step, time) for step, time, value in registry.course("wine/3", PSI)] == [
        (1, 1777593600000),
        (2, 1777597200000),
    ]
    assert registry.uploads == {"7/wine/3/artifacts/monitoring/drift.png": b"picture"}
    assert registry.tags["wine", "3"] == {
        "lepton.severity": "critical",
        "lepton.checked": "2026-05-01 01:00 UTC: critical performance; warning drift alcohol",
    }


def test_a_check_that_can_judge_nothing_leaves_the_severity_and_another_version_begins_anew(ctx, registry):
    registry.add("wine", "4", None, "e" * 64)
    nothing = Finding(monitor="drift", severity="ok", message="no requests since the last comparison", unit="PSI")
    show(USE_CASE, at(ctx, 0), [drift("critical")], version="3")
    show(USE_CASE, at(ctx, 60), [nothing], version="3")
    assert registry.tags["wine", "3"]["lepton.severity"] == "critical"
    show(USE_CASE, at(ctx, 120), [nothing], version="4")
    assert registry.tags["wine", "4"]["lepton.checked"] == "2026-05-01 00:02 UTC: ok"
    assert registry.tags["wine", "3"]["lepton.severity"] == "critical"


def test_checks_wait_while_mlflow_is_away_and_keep_their_times(ctx, registry, caplog, monkeypatch):
    monkeypatch.setattr(in_mlflow, "_KEPT", 2)
    registry.away = True
    for hour in range(3):
        show(USE_CASE, at(ctx, 3600 * hour), [drift("critical")], version="3")
    assert "MLflow does not show this check (2 wait for the next one): MLflow answered 503." in caplog.text
    assert "the oldest check that waited for it are dropped" in caplog.text
    registry.away = False
    show(USE_CASE, at(ctx, 3600 * 3), [drift("ok")], version="3")
    show(USE_CASE, at(ctx, 3600 * 4), [drift("ok")], version="3")
    assert [step for step, _, _ in registry.course("wine/3", PSI)] == [3, 4, 5]
    assert registry.tags["wine", "3"]["lepton.severity"] == "ok"


def test_what_mlflow_has_no_version_for_is_dropped(ctx, registry, caplog):
    with caplog.at_level(logging.WARNING):
        show(USE_CASE, ctx, [drift("critical")], version="9")
        show(USE_CASE, ctx, [drift("critical")], version=None)
        show(USE_CASE, ctx, [drift("critical")], version="3")
    assert caplog.text.count("MLflow has no run of version 9 any more; dropped are the figures of checks: 1") == 1
    assert len(registry.course("wine/3", PSI)) == 1


def test_an_answer_that_is_no_mlflow_costs_no_check(ctx, registry, caplog, monkeypatch):
    monkeypatch.setattr(registry, "answer", lambda *_: (200, b"<html>"))
    show(USE_CASE, ctx, [drift("critical")], version="3")
    assert "MLflow does not show this check (1 wait for the next one)" in caplog.text


def test_where_mlflow_takes_no_files_its_client_stores_them(ctx, registry, tmp_path, monkeypatch):
    stored = []
    monkeypatch.setattr(mlflow.Tracker, "__init__", lambda self, url: None)
    monkeypatch.setattr(mlflow.Tracker, "files", lambda self, *told, at: stored.append((*told, at)))
    answer = registry.answer
    elsewhere = {"run": {"info": {"artifact_uri": "s3://bucket/7/run/artifacts"}}}
    monkeypatch.setattr(
        registry,
        "answer",
        lambda verb, path, *more: (200, elsewhere) if path == "runs/get" else answer(verb, path, *more),
    )
    (tmp_path / "drift.png").write_bytes(b"picture")
    show(USE_CASE, ctx, [drift("warning")], version="3", report=[tmp_path / "drift.png"])
    assert stored == [("wine/3", tmp_path / "drift.png", "monitoring")]
    assert registry.tags["wine", "3"]["lepton.severity"] == "warning"


def test_of_a_version_that_is_watched_for_long_fewer_checks_are_drawn(ctx, registry, monkeypatch):
    monkeypatch.setattr(in_mlflow, "_EACH", 2)
    monkeypatch.setattr(in_mlflow, "_THEN", 5)
    for hour, severity in enumerate(["ok"] * 7 + ["warning"] * 2 + ["ok"] * 3):
        show(USE_CASE, at(ctx, 3600 * hour), [drift(severity)], version="3")
    # The first two, one in five, and those at which the severity is another one than it was.
    assert [step for step, _, _ in registry.course("wine/3", PSI)] == [1, 2, 5, 8, 10]
    assert registry.tags["wine", "3"]["lepton.checked"].startswith("2026-05-01 11:00 UTC")
