import json

import polars as pl
import pytest
from typer.testing import CliRunner

from lepton_tasks.cli.app import app
from lepton_tasks.core.errors import ConfigError, DataError


@pytest.fixture
def lepton(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def run(*args):
        result = CliRunner().invoke(app, ["data", *map(str, args)], catch_exceptions=True)
        if isinstance(result.exception, Exception):
            raise result.exception
        return result.stdout

    return run


@pytest.fixture
def files(tmp_path):
    old = pl.DataFrame({"x": list(range(100)), "kind": ["a", "b"] * 50})
    old.write_csv(tmp_path / "old.csv")
    old.with_columns(x=pl.col("x") + 60, new=pl.lit(True)).write_parquet(tmp_path / "new.parquet")
    return tmp_path / "old.csv", tmp_path / "new.parquet"


def kept(tmp_path, fingerprint, time, rows, success=True):
    folder = tmp_path / "state" / "artifacts" / "validate_cleaned" / fingerprint
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"use_case": "pets", "time": time, "success": success}))
    (folder / "profile.json").write_text(json.dumps({"rows": rows, "columns": {}}))
    return folder


def test_a_profile_of_a_file_as_json_and_for_people(lepton, files):
    found = json.loads(lepton("profile", files[0], "--json"))
    assert found["rows"] == 100
    assert found["columns"]["x"]["mean"] == 49.5
    shown = lepton("profile", files[1])
    assert "100 rows" in shown
    assert "109.5" in shown


def test_a_diff_names_what_came_and_what_moved(lepton, files):
    found = json.loads(lepton("diff", *files, "--json"))
    assert found["added"] == ["new"]
    assert {shift["column"]: shift["size"] for shift in found["shifts"]} == {"x": "large", "kind": "small"}
    shown = lepton("diff", *files)
    assert "added columns: new" in shown
    assert shown.index("x ") < shown.index("kind")


def test_of_texts_it_is_told_how_long_they_are_and_what_is_frequent_if_anything_is(lepton, tmp_path):
    for name, ending in (("old", ""), ("new", "!!")):
        texts = [f"{'long ' * (number % 2)}{number:03d}{ending}" for number in range(100)]
        pl.DataFrame({"text": texts, "kind": ["spam", "ham"] * 50}).write_parquet(tmp_path / f"{name}.parquet")
    text, kind = lepton("profile", "old.parquet").splitlines()[-2:]
    assert text.split()[4:] == ["length", "3", "length", "5.5", "length", "8"]
    assert kind.rstrip().endswith("ham (50), spam (50)")
    assert "length 5.5 -> length 7.5" in lepton("diff", "old.parquet", "new.parquet")


def test_tables_without_a_common_column_have_no_table_of_shifts(lepton, tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"b": [1]}).write_parquet(tmp_path / "b.parquet")
    assert lepton("diff", "a.parquet", "b.parquet").splitlines() == [
        "rows: 1 -> 1",
        "added columns: b",
        "removed columns: a",
        "no common columns",
    ]


def test_a_kept_profile_can_be_compared_again(lepton, files, tmp_path):
    (tmp_path / "kept.json").write_text(lepton("profile", files[0], "--json"))
    found = json.loads(lepton("diff", "kept.json", files[0], "--json"))
    assert [shift["psi"] for shift in found["shifts"]] == [0, 0]


def test_a_use_case_means_its_latest_run_and_a_tilde_an_earlier_one(lepton, tmp_path):
    kept(tmp_path, "f1", "2026-01-02", 20)
    kept(tmp_path, "f2", "2026-01-01", 10)
    assert json.loads(lepton("profile", "pets", "--json"))["rows"] == 20
    assert json.loads(lepton("diff", "pets~1", "configs/pets.yaml", "--json"))["rows"] == [10, 20]
    with pytest.raises(DataError, match=r"^pets~2: only 2 of its runs left a profile"):
        lepton("profile", "pets~2")


def test_docs_are_the_latest_of_each_check_those_that_failed_too(lepton, tmp_path):
    folder = kept(tmp_path, "f1", "2026-01-01", 1)
    failed = tmp_path / "state" / "work" / "validate_raw" / "f9" / "report"
    failed.mkdir(parents=True)
    (failed / "report.json").write_text(json.dumps({"use_case": "pets", "time": "2026-01-03", "success": False}))
    assert lepton("docs", "pets").splitlines() == [
        f"validate_cleaned: {folder / 'docs' / 'index.html'}",
        f"validate_raw: {failed / 'docs' / 'index.html'}",
    ]
    with pytest.raises(DataError, match="there are no Data Docs yet"):
        lepton("docs", "others")


def test_what_is_neither_a_file_nor_a_use_case_is_said(lepton, tmp_path):
    with pytest.raises(ConfigError, match="not a file, and not a use case"):
        lepton("profile", "no/such.csv")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="not a table, or files of several types"):
        lepton("profile", "notes.txt")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(DataError, match="contains no profile"):
        lepton("diff", "odd.json", "odd.json")
