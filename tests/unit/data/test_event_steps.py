import polars as pl
import pytest

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.events import EventWeights, MinInteractions, Position


def events(pairs, **columns):
    users, items = zip(*pairs, strict=True)
    return pl.DataFrame({"_row": range(len(pairs)), "user": users, "item": items, **columns})


def test_event_weights():
    step = EventWeights("event", {"view": 1, "buy": 5})
    frame = step.change(pl.LazyFrame({"event": ["buy", "view", "sell", None]})).with_columns(reason=step.refuse())
    assert frame.collect()["weight"].to_list() == [5.0, 1.0, None, None]
    assert frame.collect()["reason"].to_list() == [None, None, *["no weight for the event"] * 2]


def test_the_core_is_what_is_left_when_nothing_falls_short():
    # c is dropped for its one interaction; then item 3, left with one user; then b, left with one item.
    frame = events([("a", 1), ("a", 2), ("b", 1), ("b", 3), ("c", 3), ("d", 1), ("d", 2), ("a", 1)])
    kept, refused = MinInteractions("user", "item", per_user=2, per_item=2).apply(frame)
    assert kept["_row"].to_list() == [0, 1, 5, 6, 7]
    assert dict(refused.rows()) == {
        4: "1 interactions of user c, less than 2",
        3: "1 interactions of item 3, less than 2",
        2: "1 interactions of user b, less than 2",
    }


def test_position_orders_each_user_by_time_then_by_row():
    frame = events([("a", 1), ("b", 1), ("a", 2), ("a", 3), ("a", 4)], at=[9, 9, 2, 5, 5])
    kept, refused = Position("user", "at").apply(frame)
    assert kept["position"].to_list() == [750_000, 0, 0, 250_000, 500_000]
    assert kept["_row"].to_list() == frame["_row"].to_list()
    assert refused.is_empty()
    assert Position("user").apply(frame)[0]["position"].to_list() == [0, 0, 250_000, 500_000, 750_000]
    assert Position("user", "at", from_end=True).apply(frame)[0]["position"].to_list() == [0, 0, -3, -2, -1]


def test_columns_are_checked():
    with pytest.raises(ConfigError, match=r"no column 'usr'.*'user'"):
        MinInteractions("usr", "item").check({"user": pl.Int64(), "item": pl.Int64()})
    with pytest.raises(ConfigError, match="a column 'user' already"):
        Position("item", into="user").check({"user": pl.Int64(), "item": pl.Int64()})
