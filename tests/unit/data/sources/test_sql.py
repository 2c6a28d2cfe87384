import json
import pickle
import sqlite3

import polars as pl
import pytest

from lepton_tasks.core.errors import ConfigError, DataError, UnavailableError
from lepton_tasks.data.sources import sql
from lepton_tasks.data.sources.sql import Sql

URL = "sqlite:///shop.db"


@pytest.fixture
def shop(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table orders (id integer, price real, note text, pieces)")
        rows = [(i * i if i % 100 else None, i / 2, f"n{i}", i) for i in range(1, 1_001)]
        database.executemany("insert into orders values (?, ?, ?, ?)", rows)
    database.close()
    return tmp_path


def read(source):
    pieces = pickle.loads(pickle.dumps(source.pieces()))
    batches = [batch for piece in pieces for batch in piece.read()]
    assert all(rows.schema == source.schema() for rows, _ in batches)
    return pl.concat(rows for rows, _ in batches), pl.concat(lines for _, lines in batches).rows()


@pytest.mark.parametrize("size", [1, 7, 300, 5_000])
def test_ranges_of_the_key_hold_every_row_once(shop, monkeypatch, size):
    monkeypatch.setattr(sql, "_BATCH_ROWS", 50)
    source = Sql("id", shop, table="orders", url=URL, rows_per_piece=max(size, 20))
    rows, refused = read(source)
    assert refused == []
    assert source.schema() == {"id": pl.Int64, "price": pl.Float64, "note": pl.String, "pieces": pl.Int64}
    assert sorted(rows["pieces"]) == list(range(1, 1_001))
    keys = rows["id"].drop_nulls()
    assert keys.is_sorted()
    assert rows["id"].null_count() == 10  # in their own chunk
    assert len(source.pieces()) == -(-990 // max(size, 20)) + 1


def test_a_query_is_read_by_a_text_key_with_repeated_values(shop):
    query = "select note, price, pieces % 7 || '' as weekday from orders;"
    source = Sql("weekday", shop, query=query, url=URL, rows_per_piece=100)
    rows, _ = read(source)
    assert sorted(rows["price"]) == [i / 2 for i in range(1, 1_001)]
    assert len(source.pieces()) == 7


def test_a_value_of_another_type_is_refused_with_its_row(shop):
    with sqlite3.connect(shop / "shop.db") as database:
        database.execute("insert into orders values (2000000, 1.5, 'x', 'many')")
    database.close()
    with pytest.raises(
        DataError, match=r"column 'pieces' holds values of several kinds: int, str.*`types: \{pieces: text"
    ):
        Sql("id", shop, table="orders", url=URL).schema()
    rows, refused = read(Sql("id", shop, table="orders", url=URL, types={"pieces": "int"}))
    assert len(rows) == 1_000
    ((line, text, reason),) = refused
    assert line is None
    assert json.loads(text) == {"id": 2000000, "price": 1.5, "note": "x", "pieces": "many"}
    assert reason == "column 'pieces': 'many' is not int"
    assert (
        read(Sql("id", shop, table="orders", url=URL, types={"pieces": "text"}))[0]["pieces"].str.contains("many").sum()
        == 1
    )


def test_the_state_changes_with_rows_and_with_the_column_that_grows(shop):
    def states():
        plain = Sql("id", shop, table="orders", url=URL)
        return [plain.state(), Sql("id", shop, table="orders", url=URL, changed="price").state()]

    before = states()
    assert states() == before
    with sqlite3.connect(shop / "shop.db") as database:
        database.execute("update orders set price = 9999 where id = 4")
    database.close()
    assert [old == new for old, new in zip(before, states(), strict=True)] == [True, False]
    with sqlite3.connect(shop / "shop.db") as database:
        database.execute("delete from orders where id = 4")
    database.close()
    assert states()[0] != before[0]


def test_no_secret_is_kept_or_said(shop, monkeypatch):
    secret = "postgresql+psycopg2://me:hunter2@db.example/shop?sslpassword=hunter2"
    with pytest.raises(ConfigError, match=r"params.url: the address contains a password.*LEPTON_SQL_URL") as error:
        Sql("id", shop, table="orders", url=secret).schema()
    said = [str(error.value)]
    monkeypatch.setenv("SHOP", secret)
    source = Sql("id", shop, table="orders", url_variable="SHOP")
    said += [json.dumps(source.describe()), repr(pickle.dumps(source))]
    monkeypatch.setenv("SHOP", "postgresql:/me:hunter2@db")
    with pytest.raises(ConfigError, match="SHOP: this is not the address of a database") as error:
        source.schema()
    assert "postgresql+psycopg2://db.example/shop" in said[1]
    assert not any("hunter2" in text for text in [*said, str(error.value)])


def test_what_cannot_be_reached_or_is_not_there_is_said(shop, monkeypatch):
    monkeypatch.delenv("LEPTON_SQL_URL", raising=False)
    cases = {
        None: (ConfigError, r"neither `url` nor the environment variable LEPTON_SQL_URL is set"),
        "sqlite:///gone.db": (DataError, rf"{shop}/gone.db: no such file"),
        "nosuch://host/db": (ConfigError, r"nosuch://host/db: no driver for this address"),
    }
    for url, (kind, message) in cases.items():
        with pytest.raises(kind, match=message):
            Sql("id", shop, table="orders", url=url).schema()
    assert not (shop / "gone.db").exists()
    for params, message in [({"table": "gone"}, "no such table: gone"), ({"query": "selec"}, "selec")]:
        with pytest.raises(DataError, match=rf"{message}.*See `table`, `query` and `key`"):
            Sql("id", shop, url=URL, **params).schema()
    with pytest.raises(DataError, match="no such column: idd"):
        Sql("idd", shop, url=URL, table="orders").schema()
    with pytest.raises(ConfigError, match="give either `table` or `query`"):
        Sql("id", shop, url=URL)
    (shop / "folder.db").mkdir()
    (shop / "text.db").write_text("no database" * 100)
    with pytest.raises((DataError, UnavailableError), match="not a database"):
        Sql("id", shop, url="sqlite:///text.db", table="orders").schema()
