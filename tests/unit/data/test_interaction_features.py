import dataclasses
import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from small_tables import table_rows

from lepton_tasks.codecs.interactions import InteractionCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.extractors.content import Content
from lepton_tasks.data.extractors.interactions import Interactions, seen_pairs


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


TRAIN = pl.DataFrame(
    {
        "user": ["ann", "ann", "bob", "bob", "ann"],
        "item": [30, 10, 10, 20, 10],
        "stars": [5.0, 3.0, 4.0, 1.0, 2.0],
        "time": [dt.datetime(2024, 1, day) for day in range(1, 6)],
    }
)
LATER = pl.DataFrame(
    {"user": ["bob", "eve"], "item": [40, 20], "stars": [2.0, 5.0], "time": [dt.datetime(2024, 2, 1)] * 2}
)


def test_numbers_come_from_the_training_split(tmp_path, ctx):
    features = Interactions("user", "item", rating="stars", time="time")
    learned = json.loads(json.dumps(features.fit(table_rows(tmp_path, TRAIN, parts=2), ctx)))
    assert learned["users"] == ["ann", "bob"]
    assert learned["items"] == ["10", "20", "30"]  # the most popular first
    assert learned["popularity"] == [3, 1, 1]
    assert learned["mean_rating"] == 3.0
    assert list(zip(*(array.tolist() for array in seen_pairs(learned)), strict=True)) == [
        (1, 3),
        (1, 1),
        (2, 1),
        (2, 2),
    ]  # latest interaction last
    assert features.transform(table_rows(tmp_path, LATER), learned, tmp_path, ctx)["rows"] == 2
    assert np.load(tmp_path / "inputs.npy").tolist() == [[2, 0], [0, 2]]  # item 40 and eve are unknown
    assert np.load(tmp_path / "inputs.npy").dtype == np.int32
    assert np.load(tmp_path / "targets.npy").tolist() == [2, 5]
    assert np.load(tmp_path / "times.npy").tolist() == [1_706_745_600] * 2
    assert not (tmp_path / "negatives.npy").exists()


@pytest.mark.parametrize("odd", [None, float("nan"), float("inf")])
def test_a_rating_that_is_none_is_told(tmp_path, ctx, odd):
    features = Interactions("user", "item", rating="stars")
    rows = table_rows(tmp_path, TRAIN.with_columns(stars=pl.Series([5.0, odd, 4.0, 1.0, 2.0])))
    with pytest.raises(DataError, match=r"1 of 5 interactions have no 'stars'.*missing, params: {columns: \[stars\]}"):
        features.fit(rows, ctx)
    with pytest.raises(DataError, match="1 of 5 interactions have no 'stars'"):
        features.transform(rows, features.fit(table_rows(tmp_path, TRAIN), ctx), tmp_path, ctx)


def test_serving_gives_the_same_numbers(tmp_path, ctx):
    features = Interactions("user", "item")
    rows = table_rows(tmp_path, pl.concat([TRAIN, LATER]), parts=3)
    learned = features.fit(table_rows(tmp_path, TRAIN), ctx)
    features.transform(rows, learned, tmp_path, ctx)
    codec = InteractionCodec(**json.loads(json.dumps(features.codec(learned)[1])))
    served = [
        codec.decode(json.dumps({"user": u, "item": i}).encode())
        for u, i in pl.concat([TRAIN, LATER]).select("user", "item").rows()
    ]
    np.testing.assert_array_equal(served, np.load(tmp_path / "inputs.npy"))
    assert np.load(tmp_path / "targets.npy").tolist() == [1] * 7


def test_negatives_are_neither_seen_in_training_nor_in_the_split(tmp_path, ctx):
    random = np.random.default_rng(1)
    pairs = np.unique(random.integers(0, [20, 60], (600, 2)), axis=0)
    frame = pl.DataFrame({"user": pairs[:, 0], "item": pairs[:, 1]}).sample(fraction=1, shuffle=True, seed=2)
    train, test = frame[:350], frame[350:]
    features = Interactions("user", "item", negatives=7)
    learned = features.fit(table_rows(tmp_path, train, parts=3), ctx)
    features.transform(table_rows(tmp_path, test), learned, tmp_path, ctx)
    inputs, negatives = np.load(tmp_path / "inputs.npy"), np.load(tmp_path / "negatives.npy")
    assert negatives.shape == (test.height, 7)
    assert negatives.dtype == np.int32
    assert negatives.min() >= 1
    assert negatives.max() <= len(learned["items"])
    touched = {*map(tuple, inputs.tolist()), *zip(*(a.tolist() for a in seen_pairs(learned)), strict=True)}
    assert not touched & {
        (user, item) for (user, _), row in zip(inputs.tolist(), negatives.tolist(), strict=True) for item in row
    }
    assert set(negatives.ravel().tolist()) == set(range(1, len(learned["items"]) + 1))  # none is excluded
    features.transform(table_rows(tmp_path, test, parts=2), learned, tmp_path, ctx)
    np.testing.assert_array_equal(np.load(tmp_path / "negatives.npy"), negatives)
    features.transform(table_rows(tmp_path, test), learned, tmp_path, dataclasses.replace(ctx, seed=1))
    assert (np.load(tmp_path / "negatives.npy") != negatives).mean() > 0.5


def test_a_user_who_has_touched_everything_has_no_negatives(tmp_path, ctx):
    rows = table_rows(tmp_path, pl.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"]}))
    features = Interactions("user", "item", negatives=3)
    features.transform(rows, features.fit(rows, ctx), tmp_path, ctx)
    assert np.load(tmp_path / "negatives.npy").tolist() == [[0] * 3, [0] * 3, [2] * 3]


def test_columns_are_checked():
    schema = {"user": pl.Int64(), "item": pl.Float64(), "stars": pl.String()}
    with pytest.raises(ConfigError, match="'item' holds Float64, not text or whole numbers"):
        Interactions("user", "item").check(schema, None)
    with pytest.raises(ConfigError, match="'stars' holds String, not numbers"):
        Interactions("user", "user", rating="stars").check(schema, None)
    with pytest.raises(ConfigError, match="not a label"):
        Interactions("user", "user").check(schema, "stars")


def test_items_are_known_by_their_words(tmp_path, ctx):
    texts = {30: ("Red Sun (1999)", "Drama"), 10: ("Red Moon", "Drama|War"), 20: (None, "War")}
    described = pl.DataFrame(
        {"item": [*texts], "name": [n for n, _ in texts.values()], "kinds": [k for _, k in texts.values()]},
        schema={"item": pl.Int64, "name": pl.String, "kinds": pl.String},
    )
    train = TRAIN.join(described, on="item", maintain_order="left")
    features = Content("user", "item", recent=2, text=("name", "kinds"))
    features.check(train.schema, None)
    learned = json.loads(json.dumps(features.fit(table_rows(tmp_path, train, parts=2), ctx)))
    assert learned["items"] == ["10", "20", "30"]
    assert learned["words"] == ["drama", "red", "war"]  # sun, moon and 1999 are those of one item
    assert learned["weights"] == pytest.approx([np.log(4 / 3) + 1] * 3)
    assert learned["item_words"] == [[3, 2, 1], [3], [2, 1]]
    assert learned["titles"] == ["Red Moon", "", "Red Sun (1999)"]
    name, params = features.codec(learned)
    assert (name, params["recent"]) == ("visitor", 2)
    requests = features.requests(table_rows(tmp_path, train), np.arange(1), learned)
    assert json.loads(requests[0]) == {"user": "ann", "recent": [30]}
    with pytest.raises(ConfigError, match="no column of text"):
        Content("user", "item").check(train.schema, None)
