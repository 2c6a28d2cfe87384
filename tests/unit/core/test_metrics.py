import math

import pytest

from lepton_tasks.core.metrics import direction, higher_is_better, is_worse


@pytest.mark.parametrize(
    ("name", "better"),
    [("accuracy", 0.9), ("last_mae", 0.1), ("loss", -1.0), ("ap50_red", 0.9), ("ap50_an_error", 0.9)],
)
def test_worse_is_less_of_a_gain_and_more_of_an_error(name, better):
    limit = 0.5
    worse = 2 * limit - better
    assert (is_worse(name, better, limit), is_worse(name, worse, limit)) == (False, True)
    assert not is_worse(name, limit, limit)
    assert direction(name) * (better - worse) > 0
    assert higher_is_better(name) == (direction(name) == 1)


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_what_is_not_a_number_is_worse_than_any_limit(name):
    assert is_worse(name, math.nan, 0.5)
    assert is_worse(name, 0.5, math.nan)
