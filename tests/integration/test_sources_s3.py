"""Tables in a real S3 store (SeaweedFS); skipped where its program `weed` is not installed."""

import io
import zipfile

import polars as pl
import pytest
from s3_store import MISSING, s3_store

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.data.tables.artifact import open_raw
from lepton_tasks.stages.runner import run_stage

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3_store(tmp_path_factory.mktemp("s3"), "sales") as system:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            for day in range(3):
                rows = pl.DataFrame({"n": range(day * 100, day * 100 + 100), "price": [1.5] * 100})
                stream = io.BytesIO()
                rows.write_parquet(stream)
                system.pipe(f"sales/parquet/day={day}/part.parquet", stream.getvalue())
                system.pipe(f"sales/csv/{day}.csv", rows.write_csv().encode())
                writer.writestr(f"csv/{day}.csv", rows.write_csv())
        system.pipe("sales/csv.zip", archive.getvalue())
        yield system


def ingested(source, path, folder):
    case = {"name": "sales", "data": {"source": {"name": source, "params": {"path": path}}}, "features": "table"}
    ctx, use_case = RunContext.local(folder), parse_use_case(case, where="sales.yaml")
    ref = run_stage("ingest", use_case, ctx, {}).ref
    assert run_stage("ingest", use_case, ctx, {}).cached
    return ref, pl.concat(open_raw(ctx, ref).frames())


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("csv", "s3://sales/csv"),
        ("csv", "s3://sales/csv/*.csv"),
        ("csv", "s3://sales/csv.zip/csv"),
        ("parquet", "s3://sales/parquet"),
    ],
)
def test_the_same_rows_are_read_from_everywhere_in_a_bucket(bucket, tmp_path, source, path):
    ref, rows = ingested(source, path, tmp_path)
    assert ref.facts["rows"] == 300
    assert rows["n"].to_list() == list(range(300))
    assert rows["price"].sum() == 450
    if source == "parquet":
        assert rows["day"].to_list() == [n // 100 for n in range(300)]


def test_a_changed_file_is_noticed(bucket, tmp_path):
    bucket.pipe("sales/more/1.csv", b"n\n1\n")
    before = ingested("csv", "s3://sales/more", tmp_path)[0]
    bucket.pipe("sales/more/1.csv", b"n\n2\n")
    ref, rows = ingested("csv", "s3://sales/more", tmp_path)
    assert ref.digest != before.digest
    assert rows["n"].to_list() == [2]


def test_a_bucket_that_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(DataError, match=r"s3://nowhere/x.csv: "):
        ingested("csv", "s3://nowhere/x.csv", tmp_path)


def test_wrong_keys_are_told_with_the_variables_to_set(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-others")
    bucket.clear_instance_cache()  # it would remember the right ones
    with pytest.raises(DataError, match=r"s3://sales/csv: may not be read: .*AWS_SECRET_ACCESS_KEY"):
        ingested("csv", "s3://sales/csv", tmp_path)
    bucket.clear_instance_cache()
