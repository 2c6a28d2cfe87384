import datetime as dt

import numpy as np
import polars as pl
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.quality.diff import diff_profiles, jensen_shannon, stability_index
from lepton_tasks.quality.history import name_of
from lepton_tasks.quality.profile import oddities_in, profile_of, rules_from
from lepton_tasks.quality.rows import FrameRows


@pytest.fixture
def profile(tmp_path):
    return lambda frame: profile_of(FrameRows(frame), RunContext.local(tmp_path))


def frame(seed=0, rows=5000, shift=0.0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "x": rng.normal(shift, 1, rows),
            "kind": pl.Series(["a", "b", None])[rng.integers(0, 3, rows)],
            "when": [dt.date(2024, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 9, rows)],
            "n": rng.integers(0, 4, rows),
        }
    )


def test_a_profile_tells_what_the_columns_hold(profile):
    rows = frame()
    about = profile(rows)
    assert about["rows"] == 5000
    x, kind, when, n = (about["columns"][name] for name in ("x", "kind", "when", "n"))
    assert x["mean"] == pytest.approx(rows["x"].mean())
    assert x["std"] == pytest.approx(rows["x"].std())
    assert x["percentiles"][50] == pytest.approx(rows["x"].median(), abs=0.005)
    assert sum(x["histogram"]["counts"]) == pytest.approx(5000)
    assert kind["nulls"] == rows["kind"].null_count()
    assert kind["distinct"] == 2
    assert dict(kind["top"]) == dict(rows["kind"].drop_nulls().value_counts().iter_rows())
    assert kind["lengths"]["mean"] == 1.0
    assert (when["first"], when["last"]) == ("2024-01-01", "2024-01-09")
    assert n["percentiles"][0] == 0
    assert n["percentiles"][100] == 3


def test_an_empty_column_has_a_profile_and_gives_no_rule_but_that_it_is_there(profile):
    about = profile(pl.DataFrame({"gone": [None, None]}, schema={"gone": pl.Float64}))
    assert about["columns"]["gone"]["nulls"] == 2
    assert [rule.type for rule in rules_from(about)] == ["expect_column_to_exist"]


def test_columns_without_a_value_and_numbers_that_are_none_are_told(profile):
    x = [float("inf"), float("nan"), *map(float, range(8))]
    about = profile(
        pl.DataFrame({"x": x, "gone": [None] * 10, "fine": range(10)}, schema_overrides={"gone": pl.String})
    )
    assert oddities_in(about) == [
        "Column 'x' is not a number in 1 of 10 rows; features treat it as missing.",
        "Column 'x' is infinite in 1 of 10 rows; features treat it as missing.",
        "Column 'gone' has no value in any of the 10 rows.",
    ]
    all_nan = profile(pl.DataFrame({"x": [float("nan")] * 3}))
    assert oddities_in(all_nan) == ["Column 'x' is not a number in 3 of 3 rows; features treat it as missing."]


def test_rules_from_a_profile_warn_about_nulls_ranges_and_unknown_values(profile):
    rules = {(rule.type, rule.params["column"]): rule for rule in rules_from(profile(frame()))}
    assert rules["expect_column_to_exist", "x"].severity == "critical"
    known = rules["expect_column_values_to_be_in_set", "kind"]
    assert (known.severity, sorted(known.params["value_set"])) == ("warning", ["a", "b"])
    between = rules["expect_column_values_to_be_between", "n"].params
    assert (between["min_value"], between["max_value"]) == pytest.approx((-0.3, 3.3))
    assert rules["expect_column_values_to_not_be_null", "kind"].params["mostly"] == pytest.approx(2 / 3 - 0.1, abs=0.02)


@pytest.mark.parametrize(
    "values",
    [[1_234_567] * 3, [0.98226512345] * 3, [-1.23456789e9, -1.23456784e9], [999_999.6] * 3, [5] * 3, [0.1 + 0.2] * 3],
)
def test_rules_from_a_profile_hold_for_what_it_was_made_of(profile, values):
    (between,) = [r for r in rules_from(profile(pl.DataFrame({"x": values}))) if r.type.endswith("to_be_between")]
    assert between.params["min_value"] <= min(values)
    assert max(values) <= between.params["max_value"]
    assert between.params["max_value"] - between.params["min_value"] <= 1e-4 * abs(max(values))


def test_long_texts_make_no_set_of_values_that_their_beginnings_would_not_be_in(profile):
    about = profile(pl.DataFrame({"note": ["n" * 300, "m"] * 10}))
    assert "expect_column_values_to_be_in_set" not in {rule.type for rule in rules_from(about)}


def test_alike_data_differ_little_and_moved_data_much(profile):
    old = profile(frame())
    same = diff_profiles(old, profile(frame(seed=1)))
    assert {shift["size"] for shift in same["shifts"]} == {"small"}
    moved = diff_profiles(old, profile(frame(seed=1, shift=1.0)))
    worst = moved["shifts"][0]
    assert (worst["column"], worst["size"]) == ("x", "large")
    assert worst["mean"][1] - worst["mean"][0] == pytest.approx(1, abs=0.1)
    assert worst["psi"] == pytest.approx(0.95, abs=0.15)  # of two normal distributions a standard deviation apart: 1


def test_two_small_samples_of_the_same_data_are_not_called_different(profile):
    sizes = {
        rows: [
            shift["size"]
            for seed in range(5)
            for shift in diff_profiles(*(profile(frame(seed + part, rows)) for part in (0, 1000)))["shifts"]
        ]
        for rows in (120, 400)
    }
    assert set(sizes[400]) == {"small"}
    assert "large" not in sizes[120]
    assert sizes[120].count("moderate") <= 2  # 4 in 240 on average


def test_columns_that_came_went_or_changed_are_named(profile):
    new = frame().drop("when").with_columns(pl.col("n").cast(pl.String), extra=pl.lit(1))
    found = diff_profiles(profile(frame()), profile(new))
    assert (found["added"], found["removed"]) == (["extra"], ["when"])
    assert found["retyped"] == [{"column": "n", "old": "Int64", "new": "String"}]
    assert found["rows"] == [5000, 5000]


def test_missing_values_are_part_of_the_distribution(profile):
    holes = frame().with_columns(x=pl.when(pl.int_range(pl.len()) % 2 == 0).then("x"))
    shift = next(s for s in diff_profiles(profile(frame()), profile(holes))["shifts"] if s["column"] == "x")
    assert shift["size"] == "large"
    assert shift["nulls"] == [0, 0.5]


def test_the_measures_are_those_of_the_definitions():
    assert stability_index([5, 5], [5, 5]) == 0
    assert stability_index([50, 50], [25, 75]) == pytest.approx((0.25 - 0.5) * np.log(0.5) + 0.25 * np.log(1.5))
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(1)
    assert jensen_shannon([3, 1], [3, 1]) == 0


def test_an_expectation_is_named_with_its_least_value_first():
    params = {"mostly": 0.4036423841, "max_value": 15.21, "min_value": 10.0}
    outcome = {"type": "expect_column_values_to_be_between", "column": "alcohol", "params": params}
    assert name_of(outcome) == "alcohol: be between (min_value 10, max_value 15.21, mostly 0.403642)"
