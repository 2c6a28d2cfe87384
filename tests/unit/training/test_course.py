import types

import pytest
from tiny_training import job

from lepton_tasks.training.course import Course


@pytest.mark.parametrize("odd", [0, 1])
def test_an_epoch_that_is_not_a_number_is_worse_than_any(tmp_path, odd):
    course = object.__new__(Course)  # without the network and the batches, which it takes seconds to make
    course.module = types.SimpleNamespace(task=job(tmp_path).learning_task())
    rows = [{"validation_accuracy": 0.5, "validation_loss": 2.0}] * 2
    rows[odd] = {"validation_accuracy": float("nan"), "validation_loss": float("nan")}
    course.history = rows
    assert course._score(1 - odd) > course._score(odd)
    assert not course._score(odd) > course._score(1 - odd)
