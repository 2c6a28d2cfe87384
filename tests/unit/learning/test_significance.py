import numpy as np
import pytest

from lepton_tasks.learning.significance import mcnemar


def answers(both, only_first, only_second):
    first = np.array([True] * (both + only_first) + [False] * only_second)
    second = np.array([True] * both + [False] * only_first + [True] * only_second)
    return first, second


# Two-sided exact binomial probabilities: 2 * 0.5**6, 2 * (1 + 10) / 2**10, and certainty.
@pytest.mark.parametrize(("first", "second", "p"), [(6, 0, 0.03125), (1, 9, 22 / 1024), (5, 5, 1.0), (0, 0, 1.0)])
def test_exact_probabilities(first, second, p):
    found = mcnemar(*answers(20, first, second))
    assert (found["only_first"], found["only_second"]) == (first, second)
    assert found["p_value"] == pytest.approx(p)


def test_the_approximation_continues_the_exact_figures():
    exact = mcnemar(*answers(0, 460, 540))["p_value"]
    close = mcnemar(*answers(0, 461, 540))["p_value"]
    assert close == pytest.approx(exact, rel=0.1)
