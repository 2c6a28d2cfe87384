import numpy as np
import pytest

from lepton_tasks.stages.replay import differences

EXPECTED = {"item": np.array([[1, 2], [3, 4], [5, 6]]), "score": np.array([0.5, 100.0, -np.inf], np.float32)}


def test_equal_answers_differ_in_nothing():
    assert differences(EXPECTED, EXPECTED) == (0.0, 0.0)


def test_floats_differ_by_their_size_and_whole_numbers_by_their_share():
    near = EXPECTED | {"score": np.array([0.75, 101.0, -np.inf], np.float32)}
    assert differences(near, EXPECTED) == (pytest.approx(0.25), 0.0)
    other = EXPECTED | {"item": np.array([[1, 2], [3, 4], [0, 6]])}
    assert differences(other, EXPECTED) == (0.0, pytest.approx(1 / 6))


def test_the_score_of_another_answer_is_not_compared():
    other = {"item": np.array([[9, 2], [3, 4], [5, 6]]), "score": np.array([7.0, 100.0, -np.inf], np.float32)}
    assert differences(other, EXPECTED) == (0.0, pytest.approx(1 / 6))


@pytest.mark.parametrize(("got", "wanted"), [(np.nan, 0.5), (0.5, np.nan), (np.inf, 0.5), (np.inf, -np.inf)])
def test_what_is_a_number_in_one_of_them_only_is_no_small_difference(got, wanted):
    one, other = ({"score": np.array([0.1, value], np.float32)} for value in (got, wanted))
    assert differences(one, other) == (np.inf, 0.0)
    assert differences(one, one) == (0.0, 0.0)


def test_other_shapes_are_all_different():
    assert differences({name: values[:2] for name, values in EXPECTED.items()}, EXPECTED) == (np.inf, 1.0)
