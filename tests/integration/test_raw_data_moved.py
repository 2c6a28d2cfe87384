"""Raw data beside the raw data of the run before, judged by Great Expectations."""

import dataclasses
import json
import logging

import polars as pl
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataQualityError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.quality.check import check
from lepton_tasks.quality.previous_data import rules_from_earlier
from lepton_tasks.quality.profile import profile_of
from lepton_tasks.quality.rows import FrameRows

BEFORE = pl.DataFrame({"age": range(20, 60), "town": ["Ulm", "Kiel"] * 20, "name": [f"n{i}" for i in range(40)]})


def look(root, frame, mark, *own):
    ctx = dataclasses.replace(RunContext.local(root), stage="validate_raw", fingerprint=mark)
    rows = FrameRows(frame)
    earlier, note = rules_from_earlier("people", ctx)
    about = {"use_case": "people", "where": "people.yaml: quality.raw", "profile": profile_of(rows, ctx), "note": note}
    ref = check([(rows, [*own, *earlier])], ctx, **about)
    return json.loads((ctx.open(ref) / "report.json").read_text()), ctx.open(ref)


def test_the_first_data_have_nothing_to_be_compared_with_and_like_ones_pass(tmp_path):
    assert look(tmp_path, BEFORE, "1")[0]["evaluated"] == 0
    report, _ = look(tmp_path, BEFORE.reverse(), "2")
    assert report["evaluated"] == 11
    assert report["failed"] == []


def test_what_moved_is_a_warning_each_and_the_page_says_since_when(tmp_path, caplog):
    look(tmp_path, BEFORE, "1")
    after = BEFORE.with_columns(
        age=pl.Series([None if i % 4 == 0 else i + 200 for i in range(40)]),
        town=pl.Series(["Rome"] * 40),
        name=pl.int_range(40),
    )
    with caplog.at_level(logging.WARNING):
        report, folder = look(tmp_path, after, "2")
    assert report["success"]
    told = {(f["column"], f["type"].removeprefix("expect_column_values_to_")): f["observed"] for f in report["failed"]}
    assert set(told) == {("age", "be_between"), ("age", "not_be_null"), ("town", "be_in_set"), ("name", "be_of_type")}
    assert told["name", "be_of_type"] == "Int64"
    assert "expect_column_values_to_be_of_type (name, type_=String): observed Int64" in caplog.text
    assert "Warnings compare with the raw data of 2" in (folder / "docs" / "index.html").read_text()


def test_a_column_that_is_gone_is_a_warning(tmp_path):
    look(tmp_path, BEFORE, "1")
    report, _ = look(tmp_path, BEFORE.drop("name"), "2")
    assert {fault["severity"] for fault in report["failed"]} == {"warning"}
    assert {fault["column"] for fault in report["failed"]} == {"name"}


def test_data_that_were_refused_are_no_measure(tmp_path):
    look(tmp_path, BEFORE, "1")
    old = BEFORE.with_columns(pl.col("age") + 1_000)
    young = Expectation(type="expect_column_values_to_be_between", params={"column": "age", "max_value": 150})
    with pytest.raises(DataQualityError):
        look(tmp_path, old, "2", young)
    assert look(tmp_path, BEFORE.reverse(), "3")[0]["failed"] == []
