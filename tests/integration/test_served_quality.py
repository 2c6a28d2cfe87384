"""What a deployed model is asked, beside the profile in its package: judged by Great Expectations."""

import dataclasses
import json
import time

import polars as pl
import pytest

from lepton_tasks.codecs.monitored_values import sample_values
from lepton_tasks.codecs.tabular import TabularCodec, TabularColumn
from lepton_tasks.core.artifacts import EndpointRef, ModelPackageRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.monitoring.data_quality import DataQuality
from lepton_tasks.quality.profile import compared_with
from lepton_tasks.quality.served import profile_of_requests
from lepton_tasks.serving.observing.redact import REDACT_FILE, Redaction
from lepton_tasks.serving.observing.request_log import RequestLog

CODEC = TabularCodec(
    (TabularColumn("age", "int"), TabularColumn("work", "text", values=("x", "y")), TabularColumn("pay", "float"))
)
USE_CASE = parse_use_case(
    {
        "name": "people",
        "task": "tabular_classification",
        "data": {"source": "s"},
        "features": "f",
        "model": "m",
        "quality": {
            "served": [
                {"type": "expect_column_values_to_be_between", "params": {"column": "age", "max_value": 89}},
                {"type": "expect_column_values_to_not_be_null", "params": {"column": "work"}},
            ]
        },
    },
    where="",
)


def row(i, **changes):
    return json.dumps(
        {"age": 20 + i % 60, "work": "xy"[i % 2], "pay": None if i % 10 == 0 else i / 2} | changes
    ).encode()


@pytest.fixture
def ctx(tmp_path):
    return dataclasses.replace(RunContext.local(tmp_path), stage="export", fingerprint="f1")


@pytest.fixture
def endpoint(ctx):
    """Of a model that was made with a hundred rows."""
    draft = ctx.draft()
    write_json(draft.path / "profile.json", profile_of_requests(CODEC, [*map(row, range(100)), b"no row"], ctx))
    package = ctx.publish(draft, ModelPackageRef)
    return EndpointRef(uri="store://deploy/x", digest="d", stage="deploy", facts={"package_uri": package.uri})


def ask(ctx, rows, redaction=None):
    log = RequestLog(ctx.root / "serving" / "requests", redaction=redaction)
    for payload in rows:
        told = {"values": sample_values(CODEC, payload, CODEC.decode(payload)), "std": 1.0, "probability": 0.9}
        log.add("people", {"time": time.time(), "version": "1", "status": 200, "probe": "", **told})
    log.start()
    log.close()


def test_rules_are_ranges_categories_and_missing_values(ctx, endpoint):
    folder = ctx.store.folder_at(endpoint.facts["package_uri"])
    rules = compared_with(json.loads((folder / "profile.json").read_text()))
    assert [(rule.type.removeprefix("expect_column_values_to_"), rule.params["column"]) for rule in rules] == [
        ("not_be_null", "age"),
        ("be_between", "age"),
        ("not_be_null", "pay"),
        ("be_between", "pay"),
        ("not_be_null", "work"),
        ("be_in_set", "work"),
    ]
    assert {rule.severity for rule in rules} == {"warning"}
    assert rules[2].params["mostly"] == pytest.approx(0.8)  # one in ten was missing, and one more in ten may be


def test_requests_like_the_training_data_are_well_and_few_ones_are_waited_for(ctx, endpoint):
    ask(ctx, map(row, range(20)))
    (few,) = DataQuality().check(USE_CASE, ctx, endpoint)
    assert (few.value, few.message) == (None, "20 samples are too few to judge (minimum: 50)")
    ask(ctx, map(row, range(20, 60)))
    *_, told = DataQuality().check(USE_CASE, ctx, endpoint)
    assert (told.severity, told.message) == (
        "ok",
        "60 samples match the training data (8 expectations met)",
    )
    (none,) = DataQuality().check(USE_CASE, ctx, endpoint)
    assert none.message == "no requests since the last check"


def test_requests_unlike_the_training_data_are_told_by_rule_with_the_rows_against_it(ctx, endpoint):
    ask(ctx, [row(i, work="z", age=None if i < 30 else 90 + i) for i in range(60)])
    findings = DataQuality().check(USE_CASE, ctx, endpoint)[3:]
    told = {finding.message.partition(" (")[0].split("_to_")[1]: finding for finding in findings}
    assert sorted(told) == ["be_between", "be_in_set", "not_be_null"]
    assert told["be_in_set"].severity == "warning"
    assert told["be_in_set"].value == 1.0
    assert "value_set=['x', 'y']): observed 60 of 60 rows (100.0 %) violate it" in told["be_in_set"].message
    assert told["not_be_null"].value == 0.5
    assert {f.severity for f in findings if "max_value=89" in f.message} == {"critical"}  # the use case's own
    failing = pl.read_parquet(ctx.root / "monitoring" / "people" / "failing_requests.parquet")
    assert set(failing["work"]) == {"z"}
    assert failing["request_time"].str.starts_with("20").all()
    page = (ctx.root / "monitoring" / "people" / "docs" / "index.html").read_text()
    assert "work: be in set" in page


def test_redacted_columns_are_not_compared_and_the_others_are(ctx, endpoint):
    (ctx.root / "serving").mkdir()
    write_json(ctx.root / "serving" / REDACT_FILE, {"people": {"drop": ["age"], "hash": ["work"]}})
    ask(ctx, [row(i, work="z", age=95) for i in range(60)], Redaction(ctx.root / "serving"))
    findings = DataQuality().check(USE_CASE, ctx, endpoint)
    assert {finding.severity for finding in findings} == {"ok"}
    assert findings[-1].message == "redacted in the request log, so not compared: age, work"
    assert findings[-2].message == "60 samples match the training data (2 expectations met)"


def test_without_a_profile_the_rules_of_the_use_case_count(ctx):
    ask(ctx, [row(i, age=95) for i in range(60)])
    bare = EndpointRef(uri="store://deploy/x", digest="d", stage="deploy")
    (own,) = [finding for finding in DataQuality().check(USE_CASE, ctx, bare) if finding.severity != "ok"]
    assert (own.severity, own.value) == ("critical", 1.0)
