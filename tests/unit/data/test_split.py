import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split import SPLITS, assign_splits, connected_components, linked_keys


def sizes(method="stratified", share=0.15):
    return Split(train=1 - 2 * share, validation=share, test=share, method=method, column="x")


def keys(count, name=""):
    return [f"{name}{i}" for i in range(count)]


def assign(rows, method="stratified", seed=0):
    """Splits of (key, stratum) rows."""
    return assign_splits([key for key, _ in rows], sizes(method), seed=seed, strata=[stratum for _, stratum in rows])


def test_shares_are_kept_in_every_stratum():
    labels = ["cat"] * 200 + ["dog"] * 40
    splits = assign(list(zip(keys(240), labels, strict=True)), seed=7)
    counts = collections.Counter(zip(labels, splits, strict=True))
    assert [counts["cat", split] for split in SPLITS] == [140, 30, 30]
    assert [counts["dog", split] for split in SPLITS] == [28, 6, 6]


def test_random_looks_at_no_stratum():
    rows = [(f"{label}{i}", label) for label, count in (("a", 500), ("b", 20)) for i in range(count)]
    seen = set()
    for seed in range(3):
        counts = collections.Counter(zip((label for _, label in rows), assign(rows, "random", seed=seed), strict=True))
        assert [counts["a", split] + counts["b", split] for split in SPLITS] == [364, 78, 78]
        seen.add(counts["b", "test"])
    assert len(seen) > 1


@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=5),
    copies=st.integers(1, 3),
    seed=st.integers(0, 5),
    share=st.sampled_from([0.05, 0.15, 0.4]),
)
def test_equal_keys_stay_together_and_every_stratum_is_in_every_split(counts, copies, seed, share):
    rows = [(f"{label}-{i}", str(label)) for label, count in enumerate(counts) for i in range(count)] * copies
    chosen = assign_splits([k for k, _ in rows], sizes(share=share), seed=seed, strata=[label for _, label in rows])
    where = collections.defaultdict(set)
    for (key, _), part in zip(rows, chosen, strict=True):
        where[key].add(part)
    assert all(len(parts) == 1 for parts in where.values())
    assert {(label, part) for (_, label), part in zip(rows, chosen, strict=True)} == {
        (str(label), part) for label in range(len(counts)) for part in SPLITS
    }


@pytest.mark.parametrize("method", ["stratified", "random", "hash", "group", "file"])
def test_the_order_of_rows_does_not_matter_and_the_seed_does(method):
    rows = [(f"c{i}", "ab"[i % 2]) for i in range(100)]
    before = dict(zip(rows, assign(rows, method, seed=1), strict=True))
    random.Random(0).shuffle(rows)
    assert dict(zip(rows, assign(rows, method, seed=1), strict=True)) == before
    assert dict(zip(rows, assign(rows, method, seed=2), strict=True)) != before


@pytest.mark.parametrize(("method", "moved"), [("stratified", 30), ("random", 30), ("hash", 0)])
def test_added_rows_move_few_others_or_none(method, moved):
    rows = [(key, "ab"[i % 2]) for i, key in enumerate(keys(1_000))]
    more = [(key, "ab"[i % 2]) for i, key in enumerate(keys(50, "new"))]
    pairs = zip(assign(rows, method, seed=3), assign(rows + more, method, seed=3), strict=False)
    assert sum(before != after for before, after in pairs) <= moved


def test_shares_by_hash_are_near_those_asked_for():
    counts = collections.Counter(assign_splits(keys(20_000), sizes("hash"), seed=0))
    assert all(
        abs(counts[split] / 20_000 - share) < 0.01 for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True)
    )


def test_one_key_in_two_strata_is_in_one_split():
    rows = [(f"c{i}", "a") for i in range(10)] + [(f"c{i}", "b") for i in range(20)]
    splits = assign(rows)
    assert splits[:10] == splits[10:20]


@given(
    counts=st.lists(st.integers(1, 40), min_size=3, max_size=60),
    seed=st.integers(0, 5),
)
def test_whole_groups_come_as_near_to_the_shares_as_the_largest_allows(counts, seed):
    rows = [f"group{i}" for i, count in enumerate(counts) for _ in range(count)]
    splits = assign_splits(rows, sizes("group"), seed=seed)
    assert len(set(zip(rows, splits, strict=True))) == len(counts)
    assert set(splits) == set(SPLITS)
    for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        assert abs(splits.count(split) - share * len(rows)) <= 2 * max(counts)


@given(
    times=st.lists(st.integers(0, 50), min_size=30, max_size=200).filter(lambda times: len(set(times)) > 20),
    data=st.data(),
)
def test_nothing_later_than_what_it_is_tested_on_is_learned_from(times, data):
    names = data.draw(st.lists(st.integers(0, 300), min_size=len(times), max_size=len(times)))
    named = [f"c{name}" for name in names]
    try:
        splits = assign_splits(named, sizes("time"), seed=0, times=times)
    except DataError:  # duplicates that link all rows
        return
    latest = {split: max(time for time, s in zip(times, splits, strict=True) if s == split) for split in SPLITS}
    of_test = [time for key, time, s in zip(named, times, splits, strict=True) if s == "test" and named.count(key) == 1]
    assert latest["train"] < latest["validation"] < latest["test"]
    assert all(time > latest["validation"] for time in of_test)


def test_times_without_copies_give_the_shares_and_keep_equal_times_together():
    times = [i // 4 for i in range(400)]
    splits = assign_splits(keys(400), sizes("time"), seed=0, times=times)
    assert splits == ["train"] * 280 + ["validation"] * 60 + ["test"] * 60


@pytest.mark.parametrize("method", ["random", "group", "time", "hash"])
def test_a_split_that_would_be_empty_is_named(method):
    with pytest.raises(DataError, match=r"data.split: nothing is left for .*test"):
        assign_splits(["a", "a", "b"], sizes(method), seed=0, times=[1, 1, 1])


def test_rows_that_share_a_value_of_any_column_are_bonded():
    assert linked_keys("cabde", [1, 2, 1, None, None], ["x", None, None, None, "x"]) == ["b", "a", "b", "d", "b"]
    assert linked_keys("aab") == ["a", "a", "b"]


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_joined_things_have_the_smallest_of_theirs_as_root(case):
    count, pairs = case
    roots = connected_components(count, pairs)
    assert all(roots[one] == roots[other] for one, other in pairs)
    reach = [{i} for i in range(count)]
    for _ in range(count):
        for one, other in pairs:
            both = reach[one] | reach[other]
            reach[one], reach[other] = both, both
    assert roots == [min(things) for things in reach]
