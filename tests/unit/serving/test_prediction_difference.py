import math

import pytest

from lepton_tasks.serving.prediction_difference import difference


@pytest.mark.parametrize(
    ("answer", "expected", "apart"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}, 0.2),
        ({"a": [1.0, math.nan]}, {"a": [1.0, 2.5]}, math.inf),  # not lost beside a number
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ("cat", "dog", math.inf),
        ([math.inf], [math.inf], 0.0),
    ],
)
def test_the_largest_difference_counts(answer, expected, apart):
    assert difference(answer, expected) == pytest.approx(apart)
