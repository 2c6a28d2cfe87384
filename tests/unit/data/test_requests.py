import numpy as np
import pytest

from lepton_tasks.data.requests import sample_indices


@pytest.mark.parametrize(("rows", "limit"), [(0, 8), (5, 8), (9, 8), (1_000, 64), (1_000_000, 1_536), (40, 3)])
def test_rows_are_chosen_from_all_over_a_split(rows, limit):
    picked = sample_indices(rows, limit)
    assert len(picked) <= limit
    assert (np.diff(picked) > 0).all()
    assert picked[[0, -1]].tolist() == [0, rows - 1] if rows else not len(picked)
