import numpy as np
import pytest
from scipy import stats

from lepton_tasks.core.proportions import (
    chi_square_p_value,
    fisher_p_value,
    merge_sparse_bins,
    newcombe,
    population_stability_index,
    stability_index_bound,
    two_proportion_p_value,
    wilson,
)


def test_an_interval_known_from_tables():
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_the_interval_of_a_difference_is_that_of_newcombes_paper():
    # Table II (a) and (c) of the paper: 56/70 - 48/80 and 9/10 - 3/10.
    assert newcombe((48, 80), (56, 70)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe((3, 10), (9, 10)) == pytest.approx((0.1705, 0.8090), abs=1e-4)


def test_the_test_of_two_shares_is_pearsons():
    table = [[30, 70], [45, 55]]
    assert two_proportion_p_value((30, 100), (45, 100)) == pytest.approx(
        stats.chi2_contingency(table, correction=False).pvalue
    )
    assert two_proportion_p_value((0, 10), (0, 20)) == 1.0


@pytest.mark.parametrize(("first", "second"), [((1, 100), (3, 20)), ((0, 500), (5, 5)), ((30, 300), (12, 100))])
def test_more_hits_by_chance_is_fishers_exact_test(first, second):
    table = [[second[0], second[1] - second[0]], [first[0], first[1] - first[0]]]
    assert fisher_p_value(first, second) == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)


def test_many_hits_are_approximated():
    exact = stats.hypergeom.sf(1099, 40_000, 2000, 20_000)
    assert fisher_p_value((900, 20_000), (1100, 20_000)) == pytest.approx(exact, rel=0.1)


def test_stability_of_equal_and_of_turned_round_shares():
    assert population_stability_index([50, 50], [500, 500]) == pytest.approx(0, abs=1e-9)
    assert population_stability_index([9000, 1000], [1000, 9000]) == pytest.approx(2 * 0.8 * np.log(9), rel=0.01)


@pytest.mark.parametrize(("bins", "first", "second"), [(2, 300, 300), (10, 200, 2000), (40, 5000, 500)])
def test_what_chance_makes_of_stability_is_seldom_exceeded(bins, first, second):
    rng = np.random.default_rng(0)
    shares = np.full(bins, 1 / bins)
    above = sum(
        population_stability_index(rng.multinomial(first, shares), rng.multinomial(second, shares))
        > stability_index_bound(bins, first, second, z=1.645)
        for _ in range(2000)
    )
    assert 0.02 < above / 2000 < 0.07  # 5 % are expected


def test_rare_bins_are_joined_before_counts_are_compared():
    assert merge_sparse_bins([100, 3, 2, 95], [90, 1, 4, 105]) == ([100, 95, 5], [90, 105, 5])
    first, second = [120, 60, 20], [100, 80, 20]
    assert chi_square_p_value(first, second) == pytest.approx(stats.chi2_contingency([first, second]).pvalue, abs=0.01)
    assert chi_square_p_value([10, 10], [1000, 1000]) == pytest.approx(1.0, abs=0.02)
    assert chi_square_p_value([5, 0], [7, 0]) == 1.0
