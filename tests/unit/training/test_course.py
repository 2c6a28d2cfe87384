import types

import numpy as np
import pytest
from tiny_training import job

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.course import Course
from lepton_tasks.training.fit import class_weights


@pytest.mark.parametrize("odd", [0, 1])
def test_an_epoch_that_is_not_a_number_is_worse_than_any(tmp_path, odd):
    course = object.__new__(Course)  # without the network and the batches, which it takes seconds to make
    course.module = types.SimpleNamespace(task=job(tmp_path).learning_task())
    rows = [{"validation_accuracy": 0.5, "validation_loss": 2.0}] * 2
    rows[odd] = {"validation_accuracy": float("nan"), "validation_loss": float("nan")}
    course.history = rows
    assert course._score(1 - odd) > course._score(odd)
    assert not course._score(odd) > course._score(1 - odd)


def test_rows_of_a_rare_class_count_more_and_all_classes_alike():
    targets = np.array([0, 0, 0, 2])
    weights = class_weights(targets, 3)  # nobody has class 1
    assert weights[targets].sum() == pytest.approx(len(targets))
    assert weights[0] * 3 == pytest.approx(weights[2])
    with pytest.raises(ConfigError, match="only classes can be balanced"):
        class_weights(np.array([0.5, 1.5]), 2)
