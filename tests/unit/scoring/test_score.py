import dataclasses
import json
import re

import polars as pl
import pytest
from starlette.testclient import TestClient
from tiny_packages import TABLE, make_package, make_sums, picture
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from lepton_tasks.cli import app as cli
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError
from lepton_tasks.scoring.package_selection import SelectedPackage, select_package
from lepton_tasks.scoring.score import score
from lepton_tasks.serving.app import create_app


@pytest.fixture
def run(tmp_path):
    ctx = dataclasses.replace(RunContext.local(tmp_path / "state"), stage="predict", fingerprint="test")

    def scored(package, path):
        """The summary, and the rows of the answers."""
        summary = score(str(path), tmp_path / "out" / "answers.parquet", SelectedPackage(package), ctx)
        return summary, pl.read_parquet(tmp_path / "out" / "answers.parquet").to_dicts()

    return scored


@pytest.fixture
def table(tmp_path):
    make_sums(tmp_path / "table", "tabular", TABLE, shape=[2])
    return tmp_path / "table"


def test_a_folder_of_pictures_is_answered_as_the_endpoint_answers(tmp_path, run):
    digest = make_package(tmp_path / "package")
    pictures = {f"{value:03}.png": picture(value, side=30) for value in range(0, 250, 25)}
    pictures |= {"broken.png": b"no picture", "empty.png": b""}
    for name, data in pictures.items():
        (tmp_path / "in" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "deep" / name).write_bytes(data)
    summary, rows = run(tmp_path / "package", tmp_path / "in")
    assert (summary["rows"], summary["answered"], summary["refused"], summary["files"]) == (12, 10, 2, 12)
    home = tmp_path / "home"
    home.mkdir()
    with TestClient(create_app(home)) as client:
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        body = {"package": str(tmp_path / "package"), "version": "1", "digest": digest}
        assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
        for row, (name, data) in zip(rows, sorted(pictures.items()), strict=True):
            assert row["origin"] == str(tmp_path / "in" / "deep" / name)
            reply = client.post("/v1/models/tiny/predict", content=data, headers={"content-type": "image/png"}).json()
            if row["error"]:
                assert reply == {
                    "error": row["error"].replace(
                        "the sample is empty.", "the sample is empty. Send the bytes of a file."
                    )
                }
                assert row["label"] is None
                continue
            (answer,) = reply["predictions"]
            assert row["label"] == answer["label"]
            for label in ("dark", "light"):
                assert row[f"probabilities.{label}"] == answer["probabilities"][label]
            assert (row["model"], row["version"]) == ("tiny", digest[:12])


def test_csv_keeps_what_types_would_lose_and_counts_what_is_refused(tmp_path, run, table):
    path = tmp_path / "rows.csv"
    path.write_text("id,code,a\n1,007,1.5\n2,8,2\n3,,4\n4,8\n5,9,x\n")
    summary, rows = run(table, path)
    assert [row["value"] for row in rows[:3]] == [3.5, 5.0, 5.0]
    assert [row["row"] for row in rows] == [0, 1, 2, None, None]
    assert rows[3]["error"] == "line 5: 2 fields, not 3"
    assert "'x' is not float" in rows[4]["error"]
    assert (summary["answered"], summary["refused"]) == (3, 2)
    assert summary["notes"] == ["ignored: id"]


def test_parquet_and_json_lines_are_rows_too(tmp_path, run, table):
    pl.DataFrame({"a": [1.0, None, 3.0], "code": ["8", "8", None]}).write_parquet(tmp_path / "rows.parquet")
    _, rows = run(table, tmp_path / "rows.parquet")
    assert [row["value"] for row in rows] == [4.0, None, 4.0]
    assert rows[1]["error"].startswith("a: no value")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 1, "b": 2}\n{"a": \n{"a": 2.5, "code": "007"}\n')
    summary, rows = run(table, tmp_path / "rows.jsonl")
    assert [(row["row"], row["value"]) for row in rows] == [(0, 2.0), (2, None), (3, None), (4, 4.5)]
    assert ["no column 'b'" in rows[1]["error"], "not JSON" in rows[2]["error"]] == [True, True]
    assert [reason["row"] for reason in summary["reasons"]] == [2, 3]


def test_a_line_of_text_is_a_sample(tmp_path, run):
    words = ["<pad>", "<unk>", "<s>", "</s>", "the", "cat"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)
    params = {"tokenizer": tokenizer.to_str(), "max_length": 4}
    make_sums(tmp_path / "package", "text", params, dtype="int32", shape=[4])
    (tmp_path / "texts.txt").write_bytes(b"the cat\r\n\ncat \xff\nthe the")
    _, rows = run(tmp_path / "package", tmp_path / "*.txt")
    assert [(row["row"], row["value"]) for row in rows] == [(0, 9.0), (1, None), (2, None), (3, 8.0)]
    assert [rows[1]["error"], "not UTF-8" in rows[2]["error"]] == ["the sample is empty.", True]


def test_a_file_of_a_series_is_one_sample(tmp_path, run):
    params = {"time": "t", "step": 3600, "columns": ["x"], "mean": [0], "std": [1], "window": 2}
    folder = tmp_path / "package"
    make_sums(folder, "series", params, dtype="float32", shape=[2, 1])
    lines = [f"2024-01-01 {hour:02}:00:00,{hour}" for hour in range(5)]
    (tmp_path / "whole.csv").write_text("\n".join(["t,x", *lines]))
    (tmp_path / "uneven.csv").write_text("\n".join(["t,x", *lines[:3], lines[4]]))
    _, rows = run(folder, tmp_path / "*.csv")
    assert "not 3600 seconds" in rows[0]["error"]
    assert (rows[1]["origin"], rows[1]["row"], rows[1]["value"]) == (str(tmp_path / "whole.csv"), None, 7.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("b,code\n1,8\n", "no column 'a'"),
        ("", "the file is empty"),
        ("a,code\n", "there are no rows"),
    ],
)
def test_what_cannot_be_scored_leaves_the_output_alone(tmp_path, run, table, content, reason):
    (tmp_path / "rows.csv").write_text(content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.parquet").write_text("as before")
    with pytest.raises(DataError, match=reason):
        run(table, tmp_path / "rows.csv")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["answers.parquet"]
    assert (tmp_path / "out" / "answers.parquet").read_text() == "as before"


def test_files_of_several_kinds_are_refused(tmp_path, run, table):
    for name in ("a.csv", "b.jsonl"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("a\n1\n")
    with pytest.raises(DataError, match=r"\.csv, \.jsonl"):
        run(table, tmp_path / "in")


def test_files_that_are_not_there_or_not_for_this_model_are_named(tmp_path, run, table):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.csv").write_text("a,b\n1,2,3\n")
    for path, told in (
        (tmp_path / "nowhere", "no such file.*Give a file"),
        (tmp_path / "notes.txt", r"unsupported file type: \.txt"),
        (tmp_path / "broken.csv", r"line 2: 3 fields, not 2.*Write it as UTF-8 CSV"),
    ):
        with pytest.raises(DataError) as error:
            run(table, path)
        assert re.search(told, str(error.value))
        assert "LEPTON_DATA" not in str(error.value)
        assert "data.source" not in str(error.value)  # which is for use cases


def test_the_file_says_which_package_answered(tmp_path, run, table):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"a": 1}))
    summary, _ = run(table, tmp_path / "rows.jsonl")
    import pyarrow.parquet as pq

    told = pq.read_schema(tmp_path / "out" / "answers.parquet").metadata
    assert told[b"lepton.digest"].decode() == summary["digest"]
    assert told[b"lepton.model"] == b"sums"


def test_a_registered_model_is_found_by_alias_or_version(tmp_path, monkeypatch, table):
    ctx = RunContext.local(tmp_path / "state")
    folder = ctx.store.folder_at("store://export/abc")
    folder.mkdir(parents=True)
    found = {"version": "3", "tags": {"lepton.package_uri": "store://export/abc", "lepton.package_digest": "d"}}
    asked = []
    for name in ("alias", "version"):
        monkeypatch.setattr(f"lepton_tasks.tracking.registry.{name}", lambda *args: asked.append(args) or found)
    with pytest.raises(ArtifactError, match="not on this machine"):
        select_package("sums", ctx)
    (folder / "package.json").write_text("{}")
    assert select_package("sums", ctx) == SelectedPackage(folder, "3", "d")
    select_package("sums", ctx, version="3")
    assert [args[1:] for args in asked] == [("sums", "champion")] * 2 + [("sums", "3")]
    monkeypatch.setattr("lepton_tasks.tracking.registry.alias", lambda *_: None)
    with pytest.raises(ConfigError, match="alias 'best' of 'sums'"):
        select_package("sums", ctx, alias="best")
    with pytest.raises(ConfigError, match="no versions"):
        select_package(str(table), ctx, alias="champion")


def test_a_folder_that_is_not_there_is_not_looked_up_as_a_model(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        select_package(str(tmp_path / "gone"), RunContext.local(tmp_path))


def test_a_package_other_than_the_registered_one_is_refused(tmp_path, table):
    ctx = dataclasses.replace(RunContext.local(tmp_path / "state"), stage="predict")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match="digest is"):
        score(str(tmp_path / "rows.jsonl"), tmp_path / "a.parquet", SelectedPackage(table, "3", "0" * 64), ctx)


def test_the_command_scores_a_package_folder(tmp_path, monkeypatch, table):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{}\n')
    output = str(tmp_path / "a.parquet")
    asked = ["predict", str(table), "--input", str(tmp_path / "rows.jsonl"), "--output"]
    ran = CliRunner().invoke(cli.app, [*asked, output, "--json"])
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (ran.exit_code, found["answered"], found["refused"]) == (0, 1, 1)
    assert "1 answered" in ran.stderr
    for wrong in ([*asked, "a.csv"], [*asked, output, "--version", "3"], asked[:2], [*asked[:3]]):
        assert CliRunner().invoke(cli.app, wrong).exit_code != 0
