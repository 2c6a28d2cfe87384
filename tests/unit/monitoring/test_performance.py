import random

import numpy as np
import pytest
from watched_model import ask, package, use_case

from lepton_tasks.core.context import RunContext
from lepton_tasks.monitoring.live_metrics import Estimate, estimate, weakest_label
from lepton_tasks.monitoring.performance import Performance

LABELS = use_case(gate={"thresholds": {"accuracy": 0.8, "auc": 0.9}})
NUMBERS = use_case(task="tabular_regression", gate={"metric": "rmse", "thresholds": {"rmse": 30}})


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


@pytest.fixture
def endpoint(ctx):
    metrics = {"accuracy": 0.9, "auc": 0.95, "rmse": 10.0, "mae": 8.0}
    return package(ctx.root, {"package.json": {"metrics": metrics}, "profile.json": {"test_rows": 1_000}})


def answered(count, right, prefix="a"):
    """Records of answers, and the feedback to them, of which a share is right."""
    records = [{"id": f"{prefix}-{i}", "label": "ab"[i % 2], "probability": 0.9} for i in range(count)]
    wrong = {"a": "b", "b": "a"}
    truths = [
        (record["id"], record["label"] if i < right * count else wrong[record["label"]])
        for i, record in enumerate(records)
    ]
    return records, truths


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


def test_without_requests_and_feedback_all_is_quiet(ctx, endpoint):
    assert [(one.severity, one.message) for one in Performance().check(LABELS, ctx, endpoint)] == [
        ("ok", "no requests yet"),
        ("ok", "no feedback yet"),
    ]


def test_quality_as_on_the_test_split_is_well_and_few_labels_are_waited_for(ctx, endpoint):
    records, truths = answered(200, 0.88)
    ask(ctx.root, "people", records, outcomes=truths[:40])
    few = by_subject(Performance().check(LABELS, ctx, endpoint))["quality"]
    assert few.message == "40 answers with a known label are too few to judge quality (minimum: 50)"
    ask(ctx.root, "people", [], outcomes=truths[40:])
    findings = by_subject(Performance().check(LABELS, ctx, endpoint))
    assert set(findings) == {"errors", "accuracy"}  # a label does not tell the area under the curve
    assert findings["accuracy"].severity == "ok"
    assert findings["accuracy"].message == (
        "accuracy of 200 answers with a known label is 88.0% (95 %: 82.8% to 91.8%); on the test split it was 90.0%, "
        "tolerance 5.0%; the gate requires 80.0%"
    )
    assert (ctx.root / "monitoring" / "people" / "performance.png").stat().st_size > 10_000


def test_answers_that_are_all_right_are_drawn_though_their_interval_ends_there(ctx, endpoint):
    records, truths = answered(10_000, 1.0)
    ask(ctx.root, "people", records, outcomes=truths)
    assert by_subject(Performance().check(LABELS, ctx, endpoint))["accuracy"].value == 1.0
    assert (ctx.root / "monitoring" / "people" / "performance.png").exists()


@pytest.mark.parametrize(("right", "severity", "limit"), [(0.78, "warning", 0.85), (0.6, "critical", 0.8)])
def test_worse_quality_is_a_warning_and_below_the_gate_critical(ctx, endpoint, right, severity, limit):
    records, truths = answered(300, right)
    ask(ctx.root, "people", records, outcomes=truths)
    found = by_subject(Performance().check(LABELS, ctx, endpoint))["accuracy"]
    assert (found.severity, found.value, found.limit) == (severity, pytest.approx(right), pytest.approx(limit))
    assert "weakest label: " in found.message
    again = by_subject(Performance().check(LABELS, ctx, endpoint))
    assert (again["quality"].message, again["quality"].value) == ("no feedback since the last check", None)
    assert set(again) == {"errors", "quality"}


def test_the_error_of_numbers_is_held_against_the_test_split(ctx, endpoint):
    draw = random.Random(0)
    truths = [draw.uniform(50, 300) for _ in range(200)]

    def told(spread, prefix):
        records = [{"id": f"{prefix}{i}", "value": truth + draw.gauss(0, spread)} for i, truth in enumerate(truths)]
        ask(ctx.root, "people", records, outcomes=[(f"{prefix}{i}", str(truth)) for i, truth in enumerate(truths)])
        return by_subject(Performance().check(NUMBERS, ctx, endpoint))["rmse"]

    assert told(10, "a").severity == "ok"
    perhaps = told(10.9, "d")
    assert (perhaps.severity, perhaps.value > perhaps.limit) == ("ok", True)
    assert perhaps.message.endswith("; the rest may be chance")
    worse = told(16, "b")
    assert (worse.severity, worse.unit, worse.limit) == ("warning", "of the target", 10.5)
    assert told(45, "c").severity == "critical"


def test_failures_of_the_server_and_slow_answers_are_told_with_their_limits(ctx, endpoint):
    slow = [{"seconds": 0.5 if i % 10 == 0 else 0.01, "status": 500 if i % 20 == 0 else 200} for i in range(400)]
    ask(ctx.root, "people", slow)
    found = by_subject(Performance(max_p50_ms=20, max_p99_ms=100).check(LABELS, ctx, endpoint))
    assert (found["errors"].severity, found["errors"].value) == ("critical", 0.05)
    assert "the server failed on 20 of 400 requests: 5.00%" in found["errors"].message
    assert (found["p50"].severity, found["p50"].value) == ("ok", 10.0)
    assert (found["p99"].severity, found["p99"].value, found["p99"].limit) == ("warning", 500.0, 100)


def test_what_a_client_did_wrong_is_no_failure_of_the_server_and_a_request_counts_once(ctx, endpoint):
    samples = [{"id": f"r{i}/{j}", "seconds": 0.001 * i} for i in range(1, 61) for j in range(5)]
    ask(ctx.root, "people", [*samples, *({"status": 422} for _ in range(20)), *({"status": 503} for _ in range(20))])
    found = by_subject(Performance().check(LABELS, ctx, endpoint))
    assert (found["errors"].severity, found["errors"].value) == ("ok", 0)
    assert "0 of 100 requests" in found["errors"].message
    assert found["p50"].message == "half of 60 requests were answered within 30.5 ms (no limit is set)"
    assert "p99" not in found  # of 60 requests it would be the slowest one


def test_a_small_test_split_makes_the_difference_less_sure():
    live = Estimate("accuracy", 0.85, 0.82, 0.88, 600)
    assert live.least_loss(1.0, None) == pytest.approx(0.12)
    assert live.least_loss(1.0, 1_000) == pytest.approx(0.12, abs=0.01)
    assert live.least_loss(1.0, 20) < 0


def test_intervals_hold_the_true_value_about_as_often_as_they_say():
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        true = draw.normal(size=200)
        found = estimate("rmse", true + draw.normal(size=200), true)
        held += found.low <= 1.0 <= found.high
    assert 51 <= held <= 60


def test_metrics_are_those_of_the_evaluation():
    from lepton_tasks.learning.classification import per_label

    draw = np.random.default_rng(0)
    true = draw.integers(0, 3, 90)
    said = np.where(draw.random(90) < 0.7, true, draw.integers(0, 3, 90))
    wanted = np.mean([row["f1"] for row in per_label(np.eye(3)[said], true, ("a", "b", "c")).values()])
    letters = np.array(["a", "b", "c"])
    assert estimate("macro_f1", letters[said], letters[true]).value == pytest.approx(wanted)


def test_the_weakest_label_occurs_often_enough_to_be_one():
    assert weakest_label(["x"] * 4 + ["y"] * 6, ["y"] * 5 + ["x"] * 5) == ("x", 0, 5)
    assert weakest_label(["x"], ["y"]) is None
