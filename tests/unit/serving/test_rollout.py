import numpy as np
import pytest

from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.versions.rollout import judge
from lepton_tasks.serving.versions.tally import Figures, Tally

PLAN = Rollout(kind="canary", step_seconds=60, min_requests=200)


def figures(requests, *, errors=0, slow=1.0, light=0.3, seed=0, certain=0.8):
    """Of a version that errs, takes times around 10 ms times `slow`, and says "light" to a share of the requests."""
    rng = np.random.default_rng(seed)
    tally = Tally()
    for i, seconds in enumerate(rng.lognormal(np.log(0.01), 0.5, requests) * slow):
        tally.request(500 if i < errors else 200, seconds)
    if requests:
        probability = rng.beta(certain * 50, (1 - certain) * 50, requests).clip(0.5001)
        first = np.where(rng.random(requests) < light, 1 - probability, probability)
        tally.outputs({"probabilities": np.stack([first, 1 - first], axis=1)})
    return tally.figures()


def test_times_are_counted_to_five_percent():
    tally = Tally()
    for milliseconds in range(1, 101):
        tally.request(200, milliseconds / 1000)
    tally.request(499, 9.0)  # the client went away
    found = tally.figures()
    assert found.requests == 100
    assert found.quantile(0.5) == pytest.approx(0.050, rel=0.06)
    assert found.quantile(0.95) == pytest.approx(0.095, rel=0.06)
    assert found.slower(0.090) == pytest.approx(10, abs=4)
    assert Figures().quantile(0.95) is None


def test_what_is_answered_is_counted_by_row():
    tally = Tally()
    tally.outputs({"probabilities": np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)})
    tally.outputs({"probabilities": np.array([[0.4, 0.6]], np.float32)})
    assert tally.figures().labels == (1, 2)
    assert tally.figures().scores == pytest.approx((0.9, 0.8, 0.6))
    tally.reset()
    tally.outputs({"items": np.array([[1, 2]]), "scores": np.array([[1.0, 3.0]], np.float32)})
    assert (tally.figures().labels, tally.figures().scores) == ((), (2.0,))
    tally.outputs({"tokens": np.array([[1, 2]])})
    assert tally.figures().scores == (2.0,)


def test_a_good_canary_waits_for_time_and_requests_then_goes_on():
    champion = figures(5000)
    waits = judge(PLAN, 10, champion, figures(300, seed=1))
    assert (waits.action, waits.reason) == ("wait", "300 of 200 requests, 10 of 60 s")
    assert judge(PLAN, 900, champion, figures(199, seed=1)).action == "wait"
    on = judge(PLAN, 60, champion, figures(200, seed=1))
    assert (on.action, on.figures["challenger"]["requests"]) == ("on", 200)
    assert judge(PLAN, 60, Figures(), figures(200, seed=1)).action == "on"  # nobody to compare it with


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"errors": 30}, "15.0% of its requests failed, 0.0% of the champion's"),
        ({"slow": 3.0}, "times as long as the champion"),
        ({"light": 0.9}, "its labels differ"),
        ({"certain": 0.6}, "its scores differ"),
    ],
)
def test_a_worse_canary_goes_back_before_its_step_is_over(worse, reason):
    verdict = judge(PLAN, 5, figures(5000), figures(200, seed=1, **worse))
    assert verdict.action == "back"
    assert reason in verdict.reason
    assert verdict.figures["psi"].keys() == {"labels", "scores"}


def test_a_broken_canary_is_taken_back_after_a_handful_of_requests():
    assert judge(PLAN, 1, figures(500), figures(5, errors=5)).action == "back"
    assert judge(PLAN, 1, Figures(), figures(20, errors=20)).action == "back"
    assert judge(PLAN, 1, figures(500, errors=400), figures(5, errors=5)).action == "wait"  # the clients' doing


def test_errors_within_the_limit_or_chance_are_let_pass():
    assert judge(PLAN, 60, figures(5000, errors=50), figures(200, errors=3, seed=1)).action == "on"
    lax = PLAN.model_copy(update={"max_error_increase": 0.2})
    assert judge(lax, 60, figures(5000), figures(200, errors=30, seed=1)).action == "on"


def test_equal_versions_are_seldom_told_apart_by_chance():
    pairs = [(figures(1000, seed=i), figures(200, seed=100 + i)) for i in range(20)]
    assert sum(judge(PLAN, 60, *pair).action == "back" for pair in pairs) <= 1


def always(value, requests=200):
    tally = Tally()
    for _ in range(requests):
        tally.request(200, 0.01)
    tally.outputs({"value": np.full((requests, 1), value, np.float32)})
    return tally.figures()


def test_a_model_that_always_says_the_same_is_told_from_one_that_says_something_else():
    assert judge(PLAN, 60, always(1.0), always(1.0)).action == "on"
    assert judge(PLAN, 60, always(1.0), always(0.999)).action == "on"  # as sure, but for rounding
    assert "its scores differ" in judge(PLAN, 60, always(1.0), always(0.5)).reason
    assert "its scores differ" in judge(PLAN, 60, always(1.0), always(1.5)).reason


def numbers(requests, seed, shift=0.0):
    tally = Tally()
    for _ in range(requests):
        tally.request(200, 0.01)
    tally.outputs({"value": np.random.default_rng(seed).normal(2000 + shift, 5, (requests, 1))})
    return tally.figures()


def test_numbers_are_compared_by_their_spread():
    assert judge(PLAN, 60, numbers(300, 0), numbers(200, 1)).action == "on"
    assert "its scores differ" in judge(PLAN, 60, numbers(300, 0), numbers(200, 1, shift=5)).reason


def test_a_few_rows_of_continuous_scores_are_no_drift():
    verdicts = [judge(PLAN, 1, numbers(71, 2 * i), numbers(58, 2 * i + 1)).action for i in range(50)]
    assert verdicts == ["wait"] * 50
