"""A table of a real PostgreSQL; skipped where its programs or its driver are not installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import polars as pl
import pytest
from free_ports import free_port

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.data.sources.sql import Sql
from lepton_tasks.data.tables.artifact import open_raw
from lepton_tasks.stages.runner import run_stage

psycopg2 = pytest.importorskip("psycopg2", reason="the driver psycopg2 is not installed (PyPI: psycopg2-binary)")

_FOLDERS = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
_PROGRAMS = {
    name: shutil.which(name, path=os.pathsep.join([*_FOLDERS, os.environ["PATH"]])) for name in ("initdb", "postgres")
}
pytestmark = pytest.mark.skipif(None in _PROGRAMS.values(), reason="PostgreSQL is not installed (apt: postgresql)")

_ROWS = 2_500


def _somebody_else():
    """The server refuses to run as root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="module")
def url():
    """The address of a database with one table of sales."""
    user, port = _somebody_else(), free_port()
    with tempfile.TemporaryDirectory(prefix="lepton-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = Path(folder, "data")
        password = Path(folder, "password")
        password.write_text("sesame")
        if user is not None:
            shutil.chown(password, user)
        made = [_PROGRAMS["initdb"], "-D", data, "-U", "lepton", f"--pwfile={password}", "-A", "scram-sha-256", "-N"]
        subprocess.run(made, user=user, check=True, capture_output=True, cwd=folder)
        command = [_PROGRAMS["postgres"], "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        with Path(folder, "log").open("w") as log:
            server = subprocess.Popen(
                [*command, "-c", f"unix_socket_directories={folder}"], user=user, cwd=folder, stdout=log, stderr=log
            )
        try:
            _fill(port, Path(folder, "log"))
            yield f"postgresql+psycopg2://lepton:sesame@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(20)


def _fill(port, log):
    deadline = time.monotonic() + 60
    while True:
        try:
            database = psycopg2.connect(
                host="127.0.0.1", port=port, user="lepton", password="sesame", dbname="postgres"
            )
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    with database, database.cursor() as cursor:
        cursor.execute("create schema shop")
        cursor.execute(
            "create table shop.sales (id uuid primary key, at timestamptz, day date, price numeric(8, 2), units int,"
            " paid bool, note text, more jsonb)"
        )
        cursor.execute(
            "insert into shop.sales select gen_random_uuid(), timestamptz '2026-01-01 00:00+02' + n * interval '1 hour'"
            ", date '2026-01-01' + n % 30, n * 0.25, nullif(n, 7), n % 2 = 0, 'n' || n, jsonb_build_object('n', n)"
            f" from generate_series(1, {_ROWS}) n"
        )
    database.close()


def test_a_table_is_ingested_in_ranges_of_its_key(url, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_URL", url)
    params = {"key": "id", "table": "shop.sales", "url_variable": "SHOP_URL", "rows_per_piece": 1_000}
    case = {"name": "sales", "data": {"source": {"name": "sql", "params": params}}, "features": "table"}
    ctx, use_case = RunContext.local(tmp_path), parse_use_case(case, where="sales.yaml")
    ref = run_stage("ingest", use_case, ctx, {}).ref
    assert run_stage("ingest", use_case, ctx, {}).cached
    raw = open_raw(ctx, ref)
    rows = pl.concat(raw.frames()).drop("_row")
    assert len({part.path for part in raw.parts}) == 3
    assert rows.schema == {
        "id": pl.String,
        "at": pl.Datetime("us"),
        "day": pl.Date,
        "price": pl.Float64,
        "units": pl.Int64,
        "paid": pl.Boolean,
        "note": pl.String,
        "more": pl.String,
    }
    assert sorted(rows["note"]) == sorted(f"n{n}" for n in range(1, _ROWS + 1))
    assert rows["price"].sum() == sum(n * 0.25 for n in range(1, _ROWS + 1))
    assert rows["units"].null_count() == 1
    first = rows.row(by_predicate=pl.col("note") == "n3", named=True)
    assert first["at"].isoformat() == "2026-01-01T01:00:00"  # UTC
    assert first["more"] == '{"n": 3}'
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not any(b"sesame" in path.read_bytes() for path in kept)


def test_a_database_that_does_not_answer_or_refuses_is_named_without_its_password(url, tmp_path, monkeypatch):
    wrong = url.replace("sesame", "guess")
    for address in (f"postgresql+psycopg2://lepton:sesame@127.0.0.1:{free_port()}/postgres", wrong):
        monkeypatch.setenv("LEPTON_SQL_URL", address)
        with pytest.raises(
            UnavailableError, match=r"postgresql\+psycopg2://127.0.0.1:\d+/postgres: cannot be reached"
        ) as error:
            Sql("id", tmp_path, table="shop.sales").schema()
        assert "sesame" not in str(error.value)
        assert "guess" not in str(error.value)
