import base64

import numpy as np
import pytest
import torch
from tiny_features import interactions as tiny

from lepton_tasks.core.errors import DataError
from lepton_tasks.learning.histories import before, interactions, touched
from lepton_tasks.learning.item_recommendation import ItemRecommendation
from lepton_tasks.learning.ranking import ranks
from lepton_tasks.learning.rating_prediction import RatingPrediction
from lepton_tasks.learning.recommendation_plots import bins_of
from lepton_tasks.models.inference import predict
from lepton_tasks.models.neighbours import Neighbours
from lepton_tasks.models.recommenders import MatrixFactorisation, NeuMF, Recommender, TwoTower
from lepton_tasks.models.recommending import Sampled

ANN, BOB = 1, 2


def fitted(users, items, popularity):
    packed = [base64.b64encode(np.array(column, "<i4").tobytes()).decode() for column in (users, items)]
    return {
        "users": ["ann", "bob"],
        "items": ["a", "b", "c", "d"],
        "popularity": popularity,
        "mean_rating": 3.5,
        "seen": {"users": packed[0], "items": packed[1]},
    }


FITTED = fitted([ANN, ANN, ANN, BOB], [1, 3, 2, 1], [2, 1, 1, 0])


class ByNumber(Recommender):
    """Likes items with large numbers."""

    def forward(self, users, recent, items):
        return items.float() * self.item_bias.weight.new_ones(1)


def test_what_was_touched_comes_with_the_latest_first():
    assert touched(FITTED, most=2).tolist() == [[0, 0], [2, 3], [1, 0]]
    pairs = np.array([(ANN, 1), (ANN, 3), (ANN, 2), (BOB, 1)])
    assert before(pairs, np.array([0, 2, 3]), length=3).tolist() == [[0, 0, 0], [3, 1, 0], [0, 0, 0]]


def test_interactions_are_in_the_order_of_time_within_users(tmp_path):
    for split, pairs, times in (("train", [(2, 1), (1, 3), (1, 4)], [5, 9, 7]), ("test", [(1, 2)], [1])):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "inputs.npy", np.array(pairs, np.int32))
        np.save(tmp_path / split / "times.npy", np.array(times))
    found, of = interactions(tmp_path, "train", "test")
    assert found.tolist() == [[1, 4], [1, 3], [1, 2], [2, 1]]
    assert of.tolist() == [0, 0, 1, 0]
    np.save(tmp_path / "test" / "inputs.npy", np.zeros((0, 2), np.int32))
    np.save(tmp_path / "test" / "times.npy", np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no interactions"):
        interactions(tmp_path, "test")


def test_the_last_of_each_user_is_ranked_among_items_never_touched(tmp_path):
    tiny.write(tmp_path)
    task = ItemRecommendation(tiny.FITTED, [], history=3)
    rows = task.evaluation_rows(tmp_path, "test")
    assert rows.inputs.shape == (12 + 1, 1 + 3 + 1 + 100)  # with one that training does not know
    known = rows.inputs[:, 0] > 0
    for user, *row in rows.inputs[known].tolist():
        assert row[3] == tiny.visits(user)[13 if user < tiny.USERS else 12]  # whose last one is the stranger's
        if 1 < user < tiny.USERS:
            assert row[:3] == tiny.visits(user)[12:9:-1]
            assert not set(tiny.visits(user)) & set(row[4:])
    np.testing.assert_array_equal(rows.inputs, task.evaluation_rows(tmp_path, "test").inputs)
    for user, *row in task.evaluation_rows(tmp_path, "validation").inputs.tolist():
        if 1 < user < tiny.USERS:
            assert row[3] == tiny.visits(user)[11]
            assert not set(tiny.visits(user)) & set(row[4:])  # those of the test split are no wrong answers either


def test_ranks_count_ties_and_missing_scores_against_the_answer():
    scores = np.array([[3.0, 1, 2], [1, 1, 0], [-np.inf, -np.inf, 5], [0, 4, 5], [1, np.nan, 0], [np.nan, 1, 2]])
    assert ranks(scores).tolist() == [0, 1, 2, 2, 1, 2]


def test_figures_by_hand():
    scores = -np.ones((3, 101))
    scores[0, 0] = 1  # first
    scores[1, 1:3] = 1
    scores[1, 0] = 0  # third
    scores[2, 0] = -2  # last
    found = ItemRecommendation(FITTED, []).metrics({"scores": scores}, np.zeros((3, 2)))
    assert found["hit_rate_10"] == pytest.approx(2 / 3)
    assert found["ndcg_10"] == pytest.approx((1 + 1 / 2) / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 101) / 3)


def test_served_are_the_best_items_that_were_not_touched_and_popular_ones_to_strangers():
    task = ItemRecommendation(FITTED, [], answers=3)
    served = task.deployable(ByNumber(2, 4))
    answers = predict(served, np.array([[ANN, 0], [BOB, 0], [BOB, 4], [0, 0], [0, 4]], np.int32), task.outputs)
    assert answers["items"].tolist() == [[4, 0, 0], [4, 3, 2], [3, 2, 0], [1, 2, 3], [3, 2, 1]]
    assert answers["scores"][0].tolist() == [4, -np.inf, -np.inf]
    assert answers["scores"][3, 0] <= 1  # a popularity, not a number of the network's


def test_negatives_are_new_in_each_step_and_never_what_the_user_touched():
    network = ByNumber(2, 40)
    codes = np.sort(ANN * 41 + np.arange(1, 11))
    sampled = Sampled(network, codes, negatives=500)
    rows = torch.tensor([[ANN, 0, 40], [BOB, 0, 40]])
    torch.manual_seed(1)
    first, second = sampled(rows).int(), sampled(rows).int()
    torch.manual_seed(1)
    assert torch.equal(sampled(rows).int(), first)
    assert not torch.equal(first, second)
    assert first[:, 0].tolist() == [40, 40]
    assert first[0, 1:].min() > 10
    assert set(first[1, 1:].tolist()) == set(range(1, 41))


@pytest.mark.parametrize("cls", [MatrixFactorisation, NeuMF, TwoTower, Neighbours])
def test_all_items_get_the_scores_they_get_one_by_one(cls):
    torch.manual_seed(0)
    network = cls(5, 7).eval()
    users, recent = torch.tensor([1, 0, 5]), torch.tensor([[3, 1, 0], [0, 0, 0], [7, 7, 2]])
    items = torch.arange(1, 8).expand(3, -1)
    torch.testing.assert_close(network.every(users, recent)[:, 1:], network(users, recent, items))


def test_items_begin_with_the_ridge_regression_on_all_others():
    touches = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]], float)
    users, items = (index + 1 for index in touches.nonzero())
    network = Neighbours(4, 3, count=3, ridge=0.5)
    network.begin(level=0.0, users=users, items=items)
    with torch.no_grad():
        network.item_bias.weight.zero_()
        found = network.every(torch.tensor([0, 0]), torch.tensor([[1, 3, 0], [2, 0, 0]]))[:, 1:] / network.sharpness
    weights = np.zeros((3, 3))
    for item in range(3):  # the regression of each column on the others, by the normal equations
        others = [i for i in range(3) if i != item]
        x = touches[:, others]
        weights[others, item] = np.linalg.solve(x.T @ x + 0.5 * np.eye(2), x.T @ touches[:, item])
    np.testing.assert_allclose(found, [weights[0] + weights[2], weights[1]], atol=1e-5)


def test_ratings_stay_on_the_scale_and_errors_are_by_hand():
    task = RatingPrediction(FITTED, [], scale=(1.0, 3.0))
    network = MatrixFactorisation(2, 4)
    task.initialise(network)
    with torch.no_grad():
        network.user_bias.weight[BOB] = -9
    answers = predict(task.deployable(network), np.array([[ANN, 1], [BOB, 1], [0, 0]], np.int32), task.outputs)
    assert answers["value"].tolist() == [3, 1, 3]
    found = task.metrics({"value": np.array([3.0, 1.0])}, np.array([4.0, 4.0]))
    assert found == pytest.approx({"rmse": 5**0.5, "mae": 2.0})


def test_parts_are_named_by_their_counts():
    parts = bins_of(np.array([0, 1, 1, 2, 5, 9]))
    assert next(iter(parts)) == "0"
    assert sum(rows.sum() for rows in parts.values()) == 6
    assert list(bins_of(np.zeros(3, int))) == ["0"]
