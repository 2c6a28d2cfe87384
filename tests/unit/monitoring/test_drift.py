import json
import random

import numpy as np
import pytest
from watched_model import ask, package, seen, use_case

from lepton_tasks.codecs.labels import LabelsCodec
from lepton_tasks.codecs.tabular import TabularCodec, TabularColumn
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.monitoring.distribution import Bins, bins_of, shift_of
from lepton_tasks.monitoring.drift import Drift
from lepton_tasks.quality.served import profile_of_answers, profile_of_requests
from lepton_tasks.serving.observing.redact import REDACT_FILE, Redaction

CODEC = TabularCodec(
    (TabularColumn("age", "int"), TabularColumn("work", "text", values=("x", "y")), TabularColumn("pay", "float"))
)
USE_CASE = use_case()


def rows(count, seed, **changes):
    """Rows of one distribution, each column changed by its function of `changes`."""
    draw = random.Random(seed)
    for _ in range(count):
        row = {"age": draw.randint(20, 79), "work": draw.choice("xxxy"), "pay": draw.gauss(100, 20)}
        row |= {name: change(row[name], draw) for name, change in changes.items()}
        yield row


def records(rows, yes=0.3):
    draw = random.Random(9)
    for row in rows:
        yield seen(CODEC, row) | {"label": "yes" if draw.random() < yes else "no", "probability": draw.uniform(0.5, 1)}


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


def profile(ctx):
    draw = np.random.default_rng(1)
    sure = draw.uniform(0.5, 1, 500)
    yes = np.where(draw.random(500) < 0.3, sure, 1 - sure)
    made = profile_of_requests(CODEC, (json.dumps(row).encode() for row in rows(1_000, 0)), ctx)
    answers = {"probabilities": np.stack([1 - yes, yes], axis=1)}
    return made | {"answers": profile_of_answers(LabelsCodec(("no", "yes")), answers, ctx)}


@pytest.fixture
def endpoint(ctx):
    return package(ctx.root, {"profile.json": profile(ctx)})


def check(ctx, endpoint, **params):
    return Drift(**params).check(USE_CASE, ctx, endpoint)


def test_requests_of_the_same_distribution_are_quiet_and_few_are_waited_for(ctx, endpoint):
    (none,) = check(ctx, endpoint)
    assert none.message == "no requests yet"
    ask(ctx.root, "people", records(rows(60, 2)))
    (few,) = check(ctx, endpoint)
    assert (few.severity, few.message) == (
        "ok",
        "60 samples are too few to compare with the training data (minimum: 100)",
    )
    ask(ctx.root, "people", records(rows(200, 3)))
    (well,) = check(ctx, endpoint)
    assert (well.severity, well.unit, well.limit) == ("ok", "PSI", 0.1)
    assert well.message.startswith("260 samples are distributed like the training data in 5 columns (largest")
    (none,) = check(ctx, endpoint)
    assert none.message == "no requests since the last comparison"


def test_each_column_that_has_drifted_is_named_the_worst_first(ctx, endpoint):
    changes = {"age": lambda age, _: age + 25, "work": lambda work, draw: "y" if draw.random() < 0.2 else work}
    ask(ctx.root, "people", records(rows(400, 2, **changes), yes=0.75))
    findings = check(ctx, endpoint)
    assert [(one.subject, one.severity) for one in findings] == [
        ("age", "critical"),
        ("answers.label", "critical"),
        ("work", "warning"),
    ]
    age, label, work = findings
    assert age.value > label.value > 0.25 > work.value > 0.1
    assert "age of requests has drifted (PSI " in age.message
    assert "400 samples): above 74 is " in age.message
    assert " of them, against 10.0% in the training data" in age.message
    assert "label of answers has drifted" in label.message
    assert "in the test data" in label.message
    assert (ctx.root / "monitoring" / "people" / "drift.png").stat().st_size > 10_000


def test_missing_values_are_drift_too(ctx, endpoint):
    ask(ctx.root, "people", records(rows(300, 2, pay=lambda pay, draw: None if draw.random() < 0.3 else pay)))
    (pay,) = check(ctx, endpoint)
    assert pay.subject == "pay"
    assert "(missing) is 32.7% of them" in pay.message
    assert "against 0.0% in the training data" in pay.message


def test_requests_that_were_compared_do_not_count_again(ctx, endpoint):
    ask(ctx.root, "people", records(rows(200, 2, age=lambda age, _: age + 25)))
    (drifted,) = check(ctx, endpoint)
    assert drifted.subject == "age"
    ask(ctx.root, "people", records(rows(10, 3)))
    (few,) = check(ctx, endpoint)
    assert few.message.startswith("10 samples are too few")
    assert few.value is None  # nothing was measured, so what was found before is not over
    ask(ctx.root, "people", records(rows(300, 4)))
    (well,) = check(ctx, endpoint)
    assert (well.severity, well.message[:11]) == ("ok", "310 samples")


def test_requests_that_another_version_or_a_test_answered_do_not_count(ctx, endpoint):
    shifted = list(records(rows(200, 2, age=lambda age, _: age + 25)))
    ask(ctx.root, "people", [record | {"version": "2"} for record in shifted])
    ask(ctx.root, "people", [record | {"probe": "smoke_test"} for record in shifted])
    (none,) = check(ctx, endpoint)
    assert none.message == "no requests yet"


def test_redacted_columns_and_answers_are_not_compared(ctx, endpoint):
    (ctx.root / "serving").mkdir()
    write_json(ctx.root / "serving" / REDACT_FILE, {"people": {"hash": ["work"], "answer": "hash"}})
    ask(ctx.root, "people", records(rows(200, 2)), redaction=Redaction(ctx.root / "serving"))
    well, hidden = check(ctx, endpoint)
    assert (well.severity, "in 2 columns" in well.message) == ("ok", True)
    assert hidden.message == "redacted in the request log, so not compared: (answer), work"


def test_a_package_of_before_says_what_reference_it_lacks(ctx):
    made = profile(ctx)
    del made["answers"]
    ask(ctx.root, "people", records(rows(200, 2), yes=0.9))
    well, remark = check(ctx, package(ctx.root, {"profile.json": made}))
    assert (well.severity, "in 3 columns" in well.message) == ("ok", True)
    assert "no reference for answers" in remark.message


def test_without_a_profile_there_is_nothing_to_compare_with(ctx):
    ask(ctx.root, "people", records(rows(200, 2)))
    (none,) = check(ctx, package(ctx.root, {"package.json": {}}))
    assert (none.severity, "has no profile" in none.message) == ("ok", True)


def test_many_columns_without_drift_seldom_raise_an_alarm(ctx, endpoint):
    """The significance of each is corrected for their number; without, one check in four would alarm."""
    bins = bins_of(profile(ctx)["columns"]["pay"])
    monitor, alarms = Drift(moderate=1e-9), 0
    for check_number in range(100):
        draw = random.Random(check_number)
        columns = ([draw.gauss(100, 20) for _ in range(150)] for _ in range(6))
        shifts = [shift_of(str(i), bins, values) for i, values in enumerate(columns)]
        alarms += monitor._told(shifts, 150)[0].severity != "ok"
    assert alarms <= 5


def test_a_difference_that_chance_explains_is_told_as_one(ctx, endpoint):
    ask(ctx.root, "people", records(rows(100, 12, age=lambda age, _: age + 4)))
    (well,) = check(ctx, endpoint, moderate=0.05)
    assert (well.severity, well.value > 0.05) == ("ok", True)
    assert well.message.endswith("; within chance)")


def test_a_difference_beyond_chance_that_is_small_is_no_drift():
    bins = Bins(("a", "b", "(others)", "(missing)"), (5_000, 5_000, 0, 0), values=("a", "b"))
    (small,) = Drift()._told([shift_of("c", bins, ["a"] * 11_000 + ["b"] * 9_000)], 20_000)
    assert (small.severity, "limit 0.1" in small.message) == ("ok", True)
    (large,) = Drift()._told([shift_of("c", bins, ["a"] * 14_000 + ["b"] * 6_000)], 20_000)
    assert large.severity == "warning"


def test_how_sure_answers_are_is_never_critical():
    bins = Bins(("a", "b", "(others)", "(missing)"), (500, 500, 0, 0), values=("a", "b"))
    label, sure = (shift_of(f"answers.{name}", bins, ["a"] * 200) for name in ("label", "probability"))
    assert [(one.subject, one.severity) for one in Drift()._told([label, sure], 200)] == [
        ("answers.label", "critical"),
        ("answers.probability", "warning"),
    ]
