import json
import logging
from dataclasses import replace

import pyarrow as pa
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataQualityError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.quality.check import check

TABLE = pa.table({"sample_id": ["a", "b", "c", "d"], "label": ["cat", None, "dog", "dog"], "size_bytes": [9, 8, 7, 0]})


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
        ref = check(TABLE, [ROWS, NOT_EMPTY], ctx, where="pets.yaml: quality.raw")
    assert ref.facts == {"expectations": 2, "failed": 0, "warnings": 1}
    folder = ctx.open(ref)
    report = json.loads((folder / "report.json").read_text())
    assert report["success"] is True
    assert report["failed"] == [
        {
            "type": "expect_column_values_to_be_between",
            "column": "size_bytes",
            "severity": "warning",
            "params": {"min_value": 1.0},
            "observed": "1 of 4 rows (25.0 %) against it",
            "examples": [{"size_bytes": 0, "sample_id": "d"}],
        }
    ]
    assert "size_bytes" in caplog.text
    assert "Calculating Metrics" not in capfd.readouterr().err
    assert {record.name for record in caplog.records} == {"lepton.validate_raw"}


def test_data_docs_can_be_read_from_their_index(ctx):
    folder = ctx.open(check(TABLE, [ROWS, NOT_EMPTY], ctx, where="x"))
    index = (folder / "docs" / "index.html").read_text()
    pages = list((folder / "docs" / "validations").rglob("*.html"))
    assert len(pages) == 1
    assert str(pages[0].relative_to(folder / "docs")) in index
    assert "size_bytes" in pages[0].read_text()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_000_000


def test_a_critical_failure_names_expectation_column_observation_and_a_report_that_is_there(ctx, tmp_path):
    with pytest.raises(DataQualityError) as error:
        check(TABLE, [ROWS, NO_NULL, NOT_EMPTY], ctx, where="pets.yaml: quality.raw")
    kept = ctx.workdir / "report"
    assert str(error.value).startswith(
        "pets.yaml: quality.raw: 1 of 3 expectations failed: expect_column_values_to_not_be_null (label): "
        "observed 1 of 4 rows (25.0 %) against it."
    )
    assert str(kept / "docs" / "index.html") in str(error.value)
    report = json.loads((kept / "report.json").read_text())
    assert report["success"] is False
    assert report["failed"][0]["examples"] == [{"label": None, "sample_id": "b"}]
    assert (kept / "docs" / "index.html").is_file()
    assert not list((tmp_path / "artifacts").glob("validate_raw/*"))
    with pytest.raises(DataQualityError):  # a second attempt replaces the report
        check(TABLE, [NO_NULL], ctx, where="x")
    assert json.loads((kept / "report.json").read_text())["evaluated"] == 1


def test_a_column_that_is_not_there_is_a_failure_that_says_so(ctx):
    with pytest.raises(DataQualityError, match=r'\(colour\): observed The column "colour" .* does not exist'):
        check(TABLE, [rule("expect_column_values_to_be_unique", column="colour")], ctx, where="x")


def test_an_unknown_expectation_or_parameter_is_a_config_error(ctx):
    with pytest.raises(ConfigError, match="Did you mean 'expect_column_values_to_be_unique'"):
        check(TABLE, [rule("expect_column_values_to_be_uniqe", column="label")], ctx, where="pets.yaml: quality.raw")
    with pytest.raises(ConfigError, match=r"^pets.yaml: quality.raw: expect_column_values_to_be_unique .*colum"):
        check(TABLE, [rule("expect_column_values_to_be_unique", colum="label")], ctx, where="pets.yaml: quality.raw")
