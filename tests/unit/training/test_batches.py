import itertools

import numpy as np
import pytest
import torch

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.models.tokens import trimmed
from lepton_tasks.training.batches import Batches

ROWS = np.arange(23)


def batches(**arguments):
    return Batches(Rows(ROWS[:, None], ROWS), **({"size": 4, "seed": 5} | arguments))


def epochs(loader, count=2):
    return [[targets.tolist() for _, targets in loader] for _ in range(count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_an_epoch_holds_each_row_at_most_once_and_drops_less_than_a_batch():
    first, second = epochs(batches())
    seen = flat(first)
    assert len(seen) == len(set(seen)) == 20
    assert first != second


def test_inputs_go_with_their_targets():
    for inputs, targets in batches():
        assert torch.equal(inputs[:, 0], targets)


def test_seed_decides_the_order():
    assert epochs(batches()) == epochs(batches())
    assert epochs(batches()) != epochs(batches(seed=6))


@pytest.mark.parametrize("step", [0, 3, 5, 7])
def test_a_loader_that_goes_on_gives_the_rest(step):
    whole = flat(epochs(batches(), 3))
    rest = flat(epochs(batches(step=step), 3 - step // 5))
    assert rest == whole[step:]


def test_two_ranks_see_together_what_one_sees_with_twice_the_batch():
    ranks = [epochs(batches(rank=rank, ranks=2)) for rank in (0, 1)]
    together = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(*ranks, strict=True)]
    assert together == epochs(batches(size=8))


def test_rows_of_known_length_come_with_their_like_and_an_epoch_still_holds_each_once():
    lengths = np.random.default_rng(0).integers(1, 100, 800)
    numbers = np.arange(800)
    loader = Batches(Rows(numbers[:, None], numbers, lengths), size=8, seed=5)
    first, second = ([targets.numpy() for _, targets in loader] for _ in range(2))
    assert sorted(np.concatenate(first)) == list(range(800))
    assert np.mean([np.ptp(lengths[batch]) for batch in first]) < 5
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_batches_are_cut_to_their_longest_row_if_so_wished():
    lengths = np.random.default_rng(0).integers(0, 30, 200)
    tokens = np.where(np.arange(30) < lengths[:, None], 7, 0)
    rows = Rows(tokens, np.arange(200), lengths)
    for (whole, same), (cut, targets) in zip(
        Batches(rows, size=3, seed=5), Batches(rows._replace(cut=True), size=3, seed=5), strict=True
    ):
        assert torch.equal(same, targets)
        assert torch.equal(cut, trimmed(whole))


def test_rows_can_be_seen_as_often_as_their_share_says():
    shares = np.where(ROWS < 3, 10.0, 1.0)
    drawn = np.concatenate([flat(epoch) for epoch in epochs(batches(shares=shares / shares.sum()), 200)])
    assert (drawn < 3).mean() == pytest.approx(0.6, abs=0.03)


def test_fewer_rows_than_a_batch_make_one_batch():
    assert [len(b) for b in epochs(batches(size=100), 1)[0]] == [23]


def test_fewer_rows_than_ranks_are_refused():
    with pytest.raises(DataError, match="23 rows are too few for 24 processes"):
        batches(ranks=24)


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("inputs", "targets"):
        np.save(tmp_path / "train" / f"{name}.npy", np.empty((0, 2)))
    with pytest.raises(DataError, match="train split has no rows"):
        open_split(tmp_path, "train")
