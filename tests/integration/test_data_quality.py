import datetime as dt
import json
import logging
import re
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataQualityError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.tables.ingest import parts_of
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.quality.check import check
from lepton_tasks.quality.history import reports_about
from lepton_tasks.quality.profile import profile_of
from lepton_tasks.quality.rows import FrameRows
from lepton_tasks.quality.suite import run_suite
from lepton_tasks.quality.tables import origin_of

TABLE = FrameRows.of(
    pa.table({"sample_id": ["a", "b", "c", "d"], "label": ["cat", None, "dog", "dog"], "size_bytes": [9, 8, 7, 0]})
)


def look(rules, ctx, where="pets.yaml: quality.raw"):
    return check([(TABLE, rules)], ctx, use_case="pets", where=where, identity="sample_id")


@pytest.fixture
def ctx(tmp_path):
    return replace(RunContext.local(tmp_path), stage="validate_raw", fingerprint="f1")


def rule(type_, severity="critical", **params):
    return Expectation(type=type_, params=params, severity=severity)


NO_NULL = rule("expect_column_values_to_not_be_null", column="label")
NOT_EMPTY = rule("expect_column_values_to_be_between", "warning", column="size_bytes", min_value=1)
ROWS = rule("expect_table_row_count_to_be_between", min_value=1)


def test_warnings_are_recorded_and_logged_and_the_run_goes_on(ctx, caplog, capfd):
    with caplog.at_level(logging.INFO):
        ref = look([ROWS, NOT_EMPTY], ctx)
    assert ref.facts == {"expectations": 2, "failed": 0, "warnings": 1}
    folder = ctx.open(ref)
    report = json.loads((folder / "report.json").read_text())
    assert report["success"] is True
    assert [outcome["success"] for outcome in report["outcomes"]] == [True, False]
    assert report["failed"] == [
        {
            "type": "expect_column_values_to_be_between",
            "column": "size_bytes",
            "severity": "warning",
            "params": {"min_value": 1.0},
            "observed": "1 of 4 rows (25.0 %) violate it",
            "share": 0.25,
            "examples": [{"size_bytes": 0, "sample_id": "d"}],
        }
    ]
    assert "size_bytes" in caplog.text
    assert "Calculating Metrics" not in capfd.readouterr().err
    assert {record.name for record in caplog.records} == {"lepton.validate_raw"}


def test_of_sets_it_is_told_what_is_too_much_and_what_is_missing(ctx):
    kind = "expect_column_distinct_values_to_equal_set"
    other = rule(kind, "warning", column="label", value_set=["cat", "cow", "hen"])
    same = rule(kind, column="label", value_set=["dog", "cat"])
    report = json.loads((ctx.open(look([other, same], ctx)) / "report.json").read_text())
    observed = [outcome["observed"] for outcome in report["outcomes"]]
    assert observed == ["1 not expected (dog); 2 missing (cow, hen)", "these values"]


def test_data_docs_tell_it_all_on_a_page_that_fetches_nothing_and_runs_nothing(ctx):
    evil = rule("expect_column_values_to_be_in_set", "warning", column="label", value_set=["<script>alert(1)</script>"])
    page = (ctx.open(look([ROWS, NOT_EMPTY, evil], ctx)) / "docs" / "index.html").read_text()
    assert "size_bytes" in page
    assert "Must have greater than or equal to" in page  # Great Expectations' own words
    assert "1 unexpected values found. 25% of 4 total rows." in page
    assert not re.search(r"<script|<link|<img[^>]*src=.(?!data:)|https?://", page)
    assert "default-src 'none'" in page
    assert "Data asset" not in page  # Great Expectations' overview says of a warning that all has failed
    assert len(page) < 200_000


def test_the_history_shows_every_earlier_report_about_the_use_case(ctx):
    for number in range(3):
        again = replace(
            ctx, fingerprint=f"f{number}", clock=lambda n=number: dt.datetime(2026, 1, 1 + n, tzinfo=dt.UTC)
        )
        folder = again.open(look([ROWS, NOT_EMPTY], again))
        assert (folder / "docs" / "history.png").exists() == (number > 0)
    assert "data:image/png" in (folder / "docs" / "index.html").read_text()
    with pytest.raises(DataQualityError):
        look([NO_NULL], replace(ctx, fingerprint="f3", clock=lambda: dt.datetime(2026, 2, 1, tzinfo=dt.UTC)))
    reports = reports_about("pets", "validate_raw", ctx.root)
    assert [str(report["time"])[:10] for report in reports] == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-02-01"]
    assert [report["success"] for report in reports] == [True, True, True, False]
    assert reports_about("others", "validate_raw", ctx.root) == []


def test_a_critical_failure_names_expectation_column_observation_and_a_report_that_is_there(ctx, tmp_path):
    with pytest.raises(DataQualityError) as error:
        look([ROWS, NO_NULL, NOT_EMPTY], ctx)
    kept = ctx.workdir / "report"
    assert str(error.value).startswith(
        "pets.yaml: quality.raw: 1 of 3 expectations failed: expect_column_values_to_not_be_null (label): "
        "observed 1 of 4 rows (25.0 %) violate it."
    )
    assert str(kept / "docs" / "index.html") in str(error.value)
    report = json.loads((kept / "report.json").read_text())
    assert report["success"] is False
    assert report["failed"][0]["examples"] == [{"label": None, "sample_id": "b"}]
    assert (kept / "docs" / "index.html").is_file()
    assert str(kept / "failing_rows.parquet") in str(error.value)
    rows = pl.read_parquet(kept / "failing_rows.parquet")
    assert rows.select("rule", "severity", "column", "sample_id").rows() == [
        ("expect_column_values_to_not_be_null", "critical", "label", "b"),
        ("expect_column_values_to_be_between", "warning", "size_bytes", "d"),
    ]
    assert not list((tmp_path / "artifacts").glob("validate_raw/*"))
    with pytest.raises(DataQualityError):  # a second attempt replaces the report
        look([NO_NULL], ctx, "x")
    assert json.loads((kept / "report.json").read_text())["evaluated"] == 1


def test_a_column_that_is_not_there_is_a_failure_that_says_so(ctx):
    with pytest.raises(DataQualityError, match=r"\(colour\): observed no column named 'colour'"):
        look([rule("expect_column_values_to_be_unique", column="colour")], ctx, "x")


def test_a_rule_about_numbers_says_that_a_column_holds_text(ctx):
    told = r"unexpected_count of label \(String\): cannot compare string with numeric type \(\w+\)\. Let .*`\. See /"
    with pytest.raises(DataQualityError, match=told) as error:
        look([rule("expect_column_values_to_be_between", column="label", min_value=0)], ctx)
    assert "expression" not in str(error.value)


def test_an_unknown_expectation_or_parameter_is_a_config_error(ctx):
    with pytest.raises(ConfigError, match="Did you mean 'expect_column_values_to_be_unique'"):
        look([rule("expect_column_values_to_be_uniqe", column="label")], ctx)
    with pytest.raises(ConfigError, match=r"^pets.yaml: quality.raw: expect_column_values_to_be_unique .*colum"):
        look([rule("expect_column_values_to_be_unique", colum="label")], ctx)


@pytest.fixture
def parts(tmp_path):
    """Three files of a table whose last part holds what is against the rules."""
    paths = []
    for number in range(3):
        frame = pl.DataFrame({"key": range(number * 10, number * 10 + 10), "value": [float(number)] * 10})
        if number == 2:
            frame = frame.with_columns(key=pl.when(pl.col("key") == 25).then(3).otherwise("key"))
        frame.write_parquet(path := tmp_path / f"{number}.parquet")
        paths.append(path)
    found = [part for n, path in enumerate(paths) for part in parts_of(str(path), path.name, n * 10)]
    return TableRows(tuple(found), 30)


def test_rows_against_a_rule_are_handed_over_whole_with_the_file_they_came_from(ctx, parts):
    unique = rule("expect_column_values_to_be_unique", column="key")
    low = rule("expect_column_values_to_be_between", column="value", max_value=1, mostly=0.9)
    with pytest.raises(DataQualityError, match=r"10 of 30 rows .*2 of 30 rows"):
        check([(parts, [low, unique])], ctx, use_case="t", where="t.yaml", origin=origin_of(parts.parts))
    rows = pl.read_parquet(ctx.workdir / "report" / "failing_rows.parquet")
    assert rows.filter(column="key").select("_row", "origin", "key", "value").rows() == [
        (3, "0.parquet", 3, 0.0),
        (25, "2.parquet", 3, 2.0),
    ]
    assert rows.filter(column="value")["_row"].to_list() == list(range(20, 30))


def test_a_rule_that_needs_rows_in_memory_is_judged_on_a_sample_of_a_large_table(ctx, monkeypatch, parts):
    monkeypatch.setattr("lepton_tasks.quality.suite.SAMPLE", 10)
    typed = Expectation(type="expect_column_values_to_be_of_type", params={"column": "value", "type_": "float64"})
    (one,) = run_suite(parts, [typed], ctx, where="x")
    assert one.result.success
    assert one.sampled == 10
    assert one.result.expectation_config.notes == "Judged on 10 rows, 1 of 3."


def test_a_row_condition_of_pandas_is_a_config_error(ctx):
    wrong = rule("expect_column_values_to_be_unique", column="label", row_condition="a > 1", condition_parser="pandas")
    with pytest.raises(ConfigError, match=r"^pets.yaml: quality.raw: .* is written for pandas. Use the syntax of"):
        look([wrong], ctx)


def test_a_profile_of_parts_is_that_of_the_whole(ctx, parts):
    whole = FrameRows(pl.concat([pl.read_parquet(part.path) for part in parts.parts]))
    one, other = profile_of(parts, ctx)["columns"], profile_of(whole, ctx)["columns"]
    for name in ("key", "value"):
        for rounded in ("mean", "std"):
            assert one[name].pop(rounded) == pytest.approx(other[name].pop(rounded))
    assert one == other
