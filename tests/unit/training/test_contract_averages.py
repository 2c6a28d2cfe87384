"""Every line of the catalogue's AVERAGES."""

import pytest
import torch

from lepton_tasks.core.catalogue import AVERAGES
from lepton_tasks.training.average import AveragedWeights, Ema, Swa

STEPS = 40


def network(value=0.0):
    built = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    torch.nn.init.constant_(built[0].weight, value)
    return built


def course(rule, *, resume_at=None):
    """The network and its average at the end of a training whose weight is the square of the step."""
    trained = network()
    averaged = AveragedWeights(trained, rule, steps=STEPS)
    for step in range(1, STEPS + 1):
        with torch.no_grad():
            trained[0].weight.fill_(float(step**2))
            trained[1].running_mean.fill_(float(step**2))
            trained[1].num_batches_tracked += 1
        averaged.update(step)
        if step == resume_at:
            state = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
            averaged = AveragedWeights(trained, rule, steps=STEPS)
            averaged.load_into(averaged.state_dict(), state)
    return trained, averaged


@pytest.mark.parametrize("name", AVERAGES.names())
def test_shares_are_shares(name):
    shares = [AVERAGES.build(name, {}).share(step, STEPS) for step in range(1, STEPS + 1)]
    assert all(0 < share <= 1 for share in shares)
    assert shares == sorted(shares, reverse=True)


def test_an_exponential_average_soon_forgets_its_first_weights():
    shares = [Ema(decay=0.9).share(step, STEPS) for step in (1, 2, 79, 80, 1000)]
    assert shares == pytest.approx([9 / 11, 9 / 12, 9 / 89, 0.1, 0.1])


@pytest.mark.parametrize("name", AVERAGES.names())
def test_weights_that_stay_are_their_own_average(name):
    still = network(3.0)
    averaged = AveragedWeights(still, AVERAGES.build(name, {}), steps=STEPS)
    for step in range(1, STEPS + 1):
        averaged.update(step)
    with averaged.in_place():
        assert still[0].weight.item() == pytest.approx(3.0)


@pytest.mark.parametrize("name", AVERAGES.names())
def test_the_average_lies_behind_and_covers_the_statistics(name):
    trained, averaged = course(AVERAGES.build(name, {}))
    with averaged.in_place():
        assert 0 < trained[0].weight.item() < STEPS**2
        assert trained[1].running_mean.item() == pytest.approx(trained[0].weight.item())
        assert trained[1].num_batches_tracked.item() == STEPS


@pytest.mark.parametrize("name", AVERAGES.names())
def test_the_network_gets_its_own_weights_back(name):
    trained, averaged = course(AVERAGES.build(name, {}))
    with pytest.raises(KeyError), averaged.in_place():
        raise KeyError
    assert trained[0].weight.item() == STEPS**2
    assert averaged.state_dict()["0.weight"].item() < STEPS**2


@pytest.mark.parametrize("name", AVERAGES.names())
def test_a_resumed_average_is_the_unbroken_one(name):
    resumed, unbroken = (course(AVERAGES.build(name, {}), resume_at=at)[1].state_dict() for at in (17, None))
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)


def test_swa_is_the_mean_of_the_last_part():
    _, averaged = course(Swa(start=0.75))
    assert averaged.state_dict()["0.weight"].item() == pytest.approx(sum(s**2 for s in range(31, 41)) / 10)


def test_ema_halves_in_its_half_life():
    decay = 0.5 ** (1 / 10)
    assert (1 - Ema(decay).share(10_000, 20_000)) ** 10 == pytest.approx(0.5)
