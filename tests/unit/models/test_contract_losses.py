"""Every line of the catalogue's LOSSES."""

import math

import pytest
import torch

from lepton_tasks.core.catalogue import LOSSES
from lepton_tasks.core.components import check_loss
from lepton_tasks.core.errors import ConfigError

GOOD_AND_BAD = {
    "classes": ([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]], [[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]], torch.eye(3)[:2]),
    "numbers": ([[1.0, 2.0]], [[5.0, -2.0]], torch.tensor([[1.0, 2.1]])),
    "rankings": ([[5.0, 0.0, 1.0]], [[0.0, 5.0, 4.0]], torch.zeros(1)),
    "cosines": ([[0.9, -0.2], [0.1, 0.8]], [[0.1, 0.8], [0.9, -0.2]], torch.tensor([0, 1])),
    "embeddings": (
        [[1.0, 0.0], [0.99, 0.1], [-1.0, 0.0], [-0.99, 0.1]],
        [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.1], [-1.0, 0.1]],
        torch.tensor([0, 0, 1, 1]),
    ),
}


@pytest.mark.parametrize("name", LOSSES.names())
def test_good_answers_cost_less_and_gradients_lead_there(name):
    loss = LOSSES.build(name, {})
    good, bad, targets = GOOD_AND_BAD[loss.of]
    good, bad = torch.tensor(good), torch.tensor(bad, requires_grad=True)
    cost = loss(bad, targets)
    assert cost.shape == ()
    assert 0 <= loss(good, targets) < cost
    cost.backward()
    assert loss(bad - 0.01 * bad.grad, targets) < cost


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_weighted_classes_count_as_they_should(name):
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.eye(2)
    plain = LOSSES.build(name, {})
    weighted = LOSSES.build(name, {}, class_weights=torch.tensor([3.0, 1.0]))
    rows = [plain(logits[i : i + 1], targets[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(weighted(logits, targets), (3 * rows[0] + rows[1]) / 4)


def test_values_by_hand():
    assert LOSSES.build("focal", {"gamma": 0})(torch.zeros(1, 2), torch.eye(2)[:1]) == pytest.approx(math.log(2))
    assert LOSSES.build("focal", {"gamma": 2})(torch.zeros(1, 2), torch.eye(2)[:1]) == pytest.approx(math.log(2) / 4)
    assert LOSSES.build("huber", {"delta": 1})(torch.tensor([3.0]), torch.zeros(1)) == pytest.approx(2.5)
    assert LOSSES.build("bpr", {})(torch.zeros(1, 3), torch.zeros(1)) == pytest.approx(math.log(2))
    assert LOSSES.build("hinge", {})(torch.tensor([[0.5, 0.0, 2.0]]), torch.zeros(1)) == pytest.approx(1.5)


def test_a_loss_of_another_kind_is_refused_with_the_suitable_ones():
    with pytest.raises(ConfigError, match=r"'bpr' does not suit the learning task. Suitable: bce, cross_entropy"):
        check_loss("bpr", ["classes"])


def test_a_task_without_losses_of_others_says_so():
    with pytest.raises(ConfigError, match="The task defines its own loss: omit this key"):
        check_loss("bpr", [])


def test_near_points_are_told_apart_in_half_precision_too():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.06], [1.0, 0.02], [0.0, 1.0]])
    triplet, classes = LOSSES.build("triplet", {}), torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = triplet(points, classes)
    assert half == pytest.approx(float(triplet(points, classes)), rel=1e-6)
