import numpy as np
import pytest

from lepton_tasks.learning.curves import auc, calibration, calibration_error, roc

SCORES = np.array([0.9, 0.8, 0.8, 0.3, 0.1])
POSITIVE = np.array([True, True, False, True, False])


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    # Six pairs: 0.9 beats both; 0.8 ties with one and beats the other; 0.3 loses to one and beats the other.
    assert auc(SCORES, POSITIVE) == pytest.approx((2 + 1.5 + 1) / 6)


def test_the_area_is_that_under_the_curve():
    others, hits = roc(SCORES, POSITIVE)
    assert (others[0], hits[0], others[-1], hits[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(hits, others) == pytest.approx(auc(SCORES, POSITIVE))


def test_one_kind_of_rows_has_no_area():
    assert np.isnan(auc(SCORES, np.ones(5, bool)))


def test_a_score_that_is_not_a_number_is_the_worst_there_is():
    scores = np.array([0.9, np.nan, 0.2, np.nan])
    assert auc(scores, np.array([True, True, False, False])) == 0.25
    assert auc(np.full(4, np.nan), np.array([True, True, False, False])) == 0


def test_calibration_by_hand():
    said, true = np.array([0.1, 0.15, 0.95, 1.0]), np.array([False, True, True, True])
    np.testing.assert_allclose(calibration(said, true), [[0.125, 0.5, 2], [0.975, 1, 2]])
    assert calibration_error(said, true) == pytest.approx(0.2)
