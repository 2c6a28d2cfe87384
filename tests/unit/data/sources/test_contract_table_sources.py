"""Contract of every table source of the catalogue, on a minimal example."""

import json
import pickle
import sqlite3

import polars as pl
import pytest

from lepton_tasks.core.catalogue import TABLE_SOURCES
from lepton_tasks.data.sources.columns import REJECTED_LINES

EXAMPLES = {
    "ag_news": {},
    "airflow_texts": {},
    "aligned_text": {"columns": {"en": "en.txt", "de": "de.txt"}},
    "csv": {"path": "t.csv"},
    "json_lines": {"path": "t.jsonl"},
    "movielens": {},
    "parquet": {"path": "t.parquet"},
    "sklearn_breast_cancer": {},
    "sklearn_diabetes": {},
    "sklearn_digits": {},
    "sklearn_wine": {},
    "sql": {"key": "n", "table": "t", "url": "sqlite:///t.db"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    texts = {
        "t.csv": "n,s\n1,x\n",
        "t.jsonl": '{"n": 1}\n',
        "en.txt": "one\n",
        "de.txt": "eins\n",
        "ag-news/train.csv": '"3","Oil","Up"\n',
        "ag-news/test.csv": '"1","Vote","Now"\n',
        "movielens-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.5,4\n",
    }
    for name, content in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    pl.DataFrame({"n": [1]}).write_parquet(folder / "t.parquet")
    with sqlite3.connect(folder / "t.db") as database:
        database.execute("create table t as select 1 as n")
    database.close()
    return folder


def test_every_source_has_an_example():
    assert set(EXAMPLES) == set(TABLE_SOURCES.names())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_source_keeps_its_promises(folder, name):
    source = TABLE_SOURCES.build(name, EXAMPLES[name], data_root=folder)
    state = json.dumps(source.state())
    schema = dict(source.schema())
    pieces = source.pieces()
    rows = 0
    for piece in pickle.loads(pickle.dumps(pieces)):
        assert piece.origin
        if piece.parquet is not None:
            assert pl.read_parquet_schema(piece.parquet) == schema
        batches = list(piece.read())
        assert batches
        for batch, refused in batches:
            assert dict(batch.schema) == schema
            assert dict(refused.schema) == REJECTED_LINES
            rows += len(batch)
    assert rows > 0
    assert [piece.origin for piece in source.pieces()] == [piece.origin for piece in pieces]
    again = TABLE_SOURCES.build(name, EXAMPLES[name], data_root=folder)
    assert json.dumps(again.state()) == state
    assert json.loads(json.dumps(source.describe()))
