import collections
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split import SPLITS, assign_splits

SIZES = Split(train=0.7, validation=0.15, test=0.15)


def contents(count, name=""):
    return [f"{name}{i}" for i in range(count)]


def test_shares_are_kept_in_every_class():
    labels = ["cat"] * 200 + ["dog"] * 40
    splits = assign_splits(contents(240), labels, SIZES, seed=7)
    counts = collections.Counter(zip(labels, splits, strict=True))
    assert [counts["cat", split] for split in SPLITS] == [140, 30, 30]
    assert [counts["dog", split] for split in SPLITS] == [28, 6, 6]


@given(
    sizes=st.lists(st.integers(3, 30), min_size=2, max_size=5),
    copies=st.integers(1, 3),
    seed=st.integers(0, 5),
    share=st.sampled_from([0.05, 0.15, 0.4]),
)
def test_equal_content_stays_together_and_every_class_is_in_every_split(sizes, copies, seed, share):
    rows = [(f"{label}-{i}", str(label)) for label, size in enumerate(sizes) for i in range(size)] * copies
    split = Split(train=1 - 2 * share, validation=share, test=share)
    chosen = assign_splits([c for c, _ in rows], [label for _, label in rows], split, seed=seed)
    where = collections.defaultdict(set)
    for (content, _), part in zip(rows, chosen, strict=True):
        where[content].add(part)
    assert all(len(parts) == 1 for parts in where.values())
    assert {(label, part) for (_, label), part in zip(rows, chosen, strict=True)} == {
        (str(label), part) for label in range(len(sizes)) for part in SPLITS
    }


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    rows = [(f"c{i}", "ab"[i % 2]) for i in range(100)]
    before = dict(zip(rows, assign_splits(*zip(*rows, strict=True), SIZES, seed=1), strict=True))
    random.Random(0).shuffle(rows)
    assert dict(zip(rows, assign_splits(*zip(*rows, strict=True), SIZES, seed=1), strict=True)) == before
    assert dict(zip(rows, assign_splits(*zip(*rows, strict=True), SIZES, seed=2), strict=True)) != before


def test_added_rows_move_few_others():
    labels = ["a", "b"] * 500
    before = assign_splits(contents(1_000), labels, SIZES, seed=3)
    after = assign_splits(contents(1_000) + contents(50, "new"), labels + ["a", "b"] * 25, SIZES, seed=3)
    assert sum(x != y for x, y in zip(before, after, strict=False)) <= 30


def test_one_picture_under_two_labels_is_in_one_split():
    rows = [(f"c{i}", "a") for i in range(10)] + [(f"c{i}", "b") for i in range(20)]
    splits = assign_splits(*zip(*rows, strict=True), SIZES, seed=0)
    assert splits[:10] == splits[10:20]


def test_a_class_of_one_picture_is_named_with_the_way_out():
    with pytest.raises(DataError, match=r"'bird' has 1; a class needs 3.*Add samples to the class, or take it out"):
        assign_splits(contents(21), ["bird"] + ["cat"] * 10 + ["dog"] * 10, SIZES, seed=0)


def test_copies_do_not_make_a_class_large_enough():
    with pytest.raises(DataError, match="'bird' has 1"):
        assign_splits(["same"] * 5 + contents(10), ["bird"] * 5 + ["cat"] * 10, SIZES, seed=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["cat"] * 9, "only one class, 'cat'"), (["cat"] * 8 + [None], "1 rows have no label"), ([], "no rows")],
)
def test_what_cannot_be_learned_from_is_refused(labels, message):
    with pytest.raises(DataError, match=message):
        assign_splits(contents(len(labels)), labels, SIZES, seed=0)


def test_without_strata_a_class_that_misses_a_split_is_named():
    labels = ["rare"] * 3 + ["cat"] * 500
    with pytest.raises(DataError, match=r"'rare' is not in .*stratify"):
        assign_splits(contents(503), labels, SIZES.model_copy(update={"stratify": False}), seed=0)
