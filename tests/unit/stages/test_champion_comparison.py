import math
import types

import pytest

from lepton_tasks.core.metrics import is_worse
from lepton_tasks.stages.champion_comparison import limit


@pytest.mark.parametrize(("metric", "expected"), [("accuracy", 0.78), ("loss", 0.82)])
def test_a_candidate_may_fall_behind_the_champion_by_what_is_allowed_and_no_more(metric, expected):
    use_case = types.SimpleNamespace(gate=types.SimpleNamespace(max_drop=0.02))
    assert limit(use_case, metric, {metric: 0.8}) == pytest.approx(expected)
    assert not is_worse(metric, 0.3, limit(use_case, metric, {metric: math.nan}))
    assert is_worse(metric, math.nan, limit(use_case, metric, {metric: math.nan}))
