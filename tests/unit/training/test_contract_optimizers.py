"""Every line of the catalogue's OPTIMIZERS and SCHEDULES."""

import pytest
import torch

from lepton_tasks.core.catalogue import OPTIMIZERS, SCHEDULES

STEPS, PEAK = 40, 0.1


def optimizer(name="sgd", parameters=None, weight_decay=0.0, learning_rate=PEAK):
    parameters = parameters or [torch.nn.Parameter(torch.ones(3, 3))]
    return OPTIMIZERS.build(name, {}, parameters=parameters, learning_rate=learning_rate, weight_decay=weight_decay)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_it_finds_the_bottom_of_a_bowl(name):
    place = torch.nn.Parameter(torch.ones(3, 3))
    steps = optimizer(name, [place], learning_rate=0.03)
    for _ in range(1000 if name == "adagrad" else 200):
        steps.zero_grad()
        place.square().sum().backward()
        steps.step()
    assert place.abs().max() < 0.05


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_kernels_decay_and_biases_do_not(name):
    kernel, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    steps = optimizer(name, [kernel, bias], weight_decay=0.5)
    kernel.grad, bias.grad = torch.zeros_like(kernel), torch.zeros_like(bias)
    steps.step()
    assert kernel.max() < 1
    assert torch.equal(bias, torch.ones(2))


def course(name, resume_at=None):
    steps = optimizer()
    schedule = SCHEDULES.build(name, {}, optimizer=steps, steps=STEPS, learning_rate=PEAK)
    rates = []
    for step in range(STEPS):
        if step == resume_at:
            steps_state, state = steps.state_dict(), schedule.state_dict()
            steps = optimizer()
            schedule = SCHEDULES.build(name, {}, optimizer=steps, steps=STEPS, learning_rate=PEAK)
            steps.load_state_dict(steps_state)
            schedule.load_state_dict(state)
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_rates_are_positive_and_reach_the_peak_once_only(name):
    rates = course(name)
    assert min(rates) > 0
    assert max(rates) == pytest.approx(PEAK)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_plateau_lowers_the_rate_when_nothing_gets_better():
    steps = optimizer()
    schedule = SCHEDULES.build("plateau", {"factor": 0.5, "patience": 1}, optimizer=steps, steps=9, learning_rate=PEAK)
    rates = []
    for score in (0.5, 0.6, 0.6, 0.6, 0.7, 0.6):
        schedule.observe((score,))
        steps.step()
        schedule.step()
        rates.append(steps.param_groups[0]["lr"])
    assert rates == pytest.approx([PEAK, PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 2])


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_resumed_schedule_is_the_unbroken_one(name):
    assert course(name, resume_at=17) == course(name)


def test_one_cycle_rises_from_a_25th_of_its_peak_over_a_quarter_of_the_steps():
    rates = course("one_cycle")
    assert rates[0] == pytest.approx(0.04 * PEAK)
    assert rates[5] == pytest.approx(0.52 * PEAK)
    assert rates.index(max(rates)) == 10


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_the_rate_ends_near_zero(name):
    assert course(name)[-1] < 0.01 * PEAK
