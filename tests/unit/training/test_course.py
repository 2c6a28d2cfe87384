import contextlib
import types

import numpy as np
import pytest
import torch
from tiny_training import job

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import Rows, Validation
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


def test_ranks_without_a_row_to_validate_do_not_count(monkeypatch):
    rows, told = np.array([[1.0], [2.0]], np.float32), []

    def gather(shares, own):
        told.append(dict(own))  # what is gathered is a copy
        shares[:] = told if len(told) == 3 else [own] * 3

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    course = object.__new__(Course)
    course._layout = types.SimpleNamespace(gathered=lambda network: contextlib.nullcontext())
    found = Validation(Rows(rows, rows), torch.nn.Linear(1, 1), ("a",), lambda outputs, targets: {"got": outputs["a"]})
    course.module = types.SimpleNamespace(validation=found, trainable=None)
    for rank in range(3):
        trainer = types.SimpleNamespace(global_rank=rank, world_size=3, is_global_zero=False)
        got = course._validate(trainer)["got"]
    np.testing.assert_allclose(got, found.network(torch.from_numpy(rows)).detach().numpy())


def test_rows_of_a_rare_class_count_more_and_all_classes_alike():
    targets = np.array([0, 0, 0, 2])
    weights = class_weights(targets, 3)  # nobody has class 1
    assert weights[targets].sum() == pytest.approx(len(targets))
    assert weights[0] * 3 == pytest.approx(weights[2])
    with pytest.raises(ConfigError, match="only classes can be balanced"):
        class_weights(np.array([0.5, 1.5]), 2)
