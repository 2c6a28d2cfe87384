"""Alerts on their way: each channel gets each of them once, whatever happens to the other channels."""

import datetime as dt
import json
import logging

import pytest
from alerts import USE_CASE, at, drift

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import BOOK_FILE, Finding
from lepton_tasks.monitoring.alert import announce, deliver, record
from lepton_tasks.monitoring.book import home_of, read_book


@pytest.fixture
def ctx(tmp_path, receiver, monkeypatch):
    monkeypatch.setenv("HOOK", f"{receiver.url}/a-secret-path")
    alerts = ["log", {"name": "webhook", "params": {"url": {"env": "HOOK"}}}]
    return RunContext.local(tmp_path, alerts=alerts, name="shop")


def test_an_alert_comes_once_with_all_that_is_known(ctx, receiver):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert deliver(USE_CASE, ctx).sent == {"log": 1, "webhook": 1}
    assert deliver(USE_CASE, ctx).sent == {}
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert deliver(USE_CASE, ctx).sent == {}
    ((path, body),) = receiver.got
    assert path == "/a-secret-path"
    assert body["text"] == "[critical] wine version 3 (shop): drift of alcohol: PSI is 0.31 (limit 0.2)"
    (alert,) = body["alerts"]
    assert (alert["event"], alert["use_case"], alert["version"]) == ("began", "wine", "3")
    assert alert["finding"] == drift("critical").as_json()


def test_a_channel_that_fails_costs_no_other_and_gets_the_alert_later(ctx, receiver, caplog):
    receiver.status = 500
    record(USE_CASE, ctx, [drift("warning")], version="3")
    with caplog.at_level(logging.INFO):
        delivery = deliver(USE_CASE, ctx)
    assert (delivery.sent, delivery.failed) == ({"log": 1}, {"webhook": "127.0.0.1 answers 500."})
    assert "alerts not sent to webhook, kept for the next check: 127.0.0.1 answers 500." in caplog.text
    receiver.status = 200
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert deliver(USE_CASE, ctx).sent == {"log": 1, "webhook": 1}
    assert [alert["event"] for alert in receiver.got[-1][1]["alerts"]] == ["rose"]  # the latest state, once


def test_a_channel_that_is_away_for_long_keeps_one_alert_a_finding(ctx, receiver):
    receiver.status = 503
    for severity in ("warning", "critical", "ok", "warning", "critical"):
        record(USE_CASE, ctx, [drift(severity)], version="3")
        deliver(USE_CASE, ctx)
    assert {name: len(waiting) for name, waiting in read_book(ctx.root, "wine").outbox.items()} == {"webhook": 1}


def test_a_secret_is_in_no_log_and_no_file(ctx, receiver, caplog, tmp_path):
    record(USE_CASE, ctx, [drift("warning")], version="3")
    with caplog.at_level(logging.DEBUG):
        assert deliver(USE_CASE, ctx).failed == {}
        receiver.close()
        record(USE_CASE, ctx, [drift("critical")], version="3")
        assert deliver(USE_CASE, ctx).failed == {"webhook": "127.0.0.1 does not answer (ConnectionRefusedError)."}
    assert "a-secret-path" not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "a-secret-path" in path.read_text()]


def test_a_channel_that_is_configured_wrongly_is_told_and_the_others_send(ctx, receiver):
    bad = [{"name": "webhok"}, {"name": "email", "params": {"host": "localhost"}}]
    alerts = [*bad, *(spec.model_dump() for spec in ctx.environment.alerts)]
    ctx = RunContext.local(ctx.root, alerts=alerts)
    record(USE_CASE, ctx, [drift("warning")], version="3")
    delivery = deliver(USE_CASE, ctx)
    assert delivery.sent == {"log": 1, "webhook": 1}
    assert "Did you mean 'webhook'?" in delivery.failed["webhok"]
    assert "needs the parameter 'sender'" in delivery.failed["email"]


def test_two_channels_of_a_kind_are_two(tmp_path, receiver):
    hooks = [{"name": "webhook", "params": {"url": f"{receiver.url}/{path}"}} for path in ("one", "two")]
    ctx = RunContext.local(tmp_path, alerts=hooks)
    record(USE_CASE, ctx, [drift("warning")], version="3")
    assert list(deliver(USE_CASE, ctx).sent.values()) == [1, 1]
    assert sorted(path for path, _ in receiver.got) == ["/one", "/two"]


def test_what_was_done_is_told_too(ctx, receiver):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    announce(USE_CASE, ctx, [drift("critical")], "retrain: run 7 is started.")
    deliver(USE_CASE, ctx)
    assert receiver.got[-1][1]["text"].splitlines()[1] == (
        "[repair] wine version 3 (shop): drift of alcohol: retrain: run 7 is started."
    )


def test_a_server_that_is_away_leaves_the_other_findings_as_they_were(ctx):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    gone = Finding(monitor="endpoint", severity="critical", message="no answer", value=0.0)
    book = record(USE_CASE, ctx, [gone], version=None)
    assert (book.version, sorted(book.lasting)) == ("3", ["drift/alcohol", "endpoint/"])
    failed = Finding(monitor="checks", severity="critical", message="the monitors failed", value=0.0)
    assert sorted(record(USE_CASE, ctx, [failed], version=None).lasting) == ["checks/", "drift/alcohol"]
    assert sorted(record(USE_CASE, ctx, [drift("critical")], version="3").lasting) == ["drift/alcohol"]


def test_since_when_a_version_is_served_is_noticed(tmp_path):
    ctx = RunContext.local(tmp_path, alerts=[])
    first = record(USE_CASE, at(ctx, 100), [drift("ok")], version="3", deployed_at=at(ctx, 0).clock().timestamp() - 50)
    assert first.version_since == at(ctx, 0).clock().timestamp() - 50
    record(USE_CASE, at(ctx, 200), [drift("ok")], version="3")
    assert record(USE_CASE, at(ctx, 300), [drift("ok")], version="4").version_since == (
        dt.datetime(2026, 5, 1, tzinfo=dt.UTC).timestamp() + 300
    )


def test_the_book_is_whole_on_disk(ctx):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    home = home_of(ctx.root, "wine")
    assert json.loads((home / BOOK_FILE).read_text())["version"] == "3"
    assert read_book(ctx.root, "wine").findings[0] == drift("critical")
