import numpy as np
import pytest
import torch
from tiny_features import build_network, table

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.data.feature_tables import open_table
from lepton_tasks.learning.tabular_classification import TabularClassification
from lepton_tasks.learning.tabular_regression import TabularRegression

PROBABILITIES = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
OUTPUTS = {"probabilities": PROBABILITIES}
TARGETS = np.array([0, 0, 1, 1])


@pytest.fixture
def folder(tmp_path):
    return table.write(tmp_path)


def test_stored_rows_are_read_part_by_part_in_their_order(folder):
    rows = open_table(folder, "train", table.FITTED)
    ages, codes, targets = table.table(96, 0)
    np.testing.assert_allclose(rows.inputs[:, 0], (ages - 40) / 10, rtol=1e-6)
    np.testing.assert_array_equal(rows.inputs[:, 1], codes)
    np.testing.assert_array_equal(rows.targets, targets)


def test_rows_without_targets_are_refused(folder):
    (folder / "test" / "targets.npy").unlink()
    with pytest.raises(DataError, match="24 inputs and 0 targets"):
        open_table(folder, "test", table.FITTED)


def test_labels_that_are_no_numbers_are_refused(folder):
    path = folder / "train" / "targets.npy"
    np.save(path, np.where(np.arange(96) < 2, [np.nan, np.inf] * 48, np.load(path)))
    with pytest.raises(DataError, match=r"2 labels of the train split are not a number, or infinite.*`labels`"):
        open_table(folder, "train", table.FITTED)


def test_codes_that_float32_cannot_tell_apart_are_refused(folder):
    fitted = table.FITTED | {"features": [{"name": "town", "kind": "hash", "size": 2**24 + 2}]}
    with pytest.raises(DataError, match="town"):
        open_table(folder, "test", fitted)


def test_served_and_stored_rows_get_the_same_answer(folder):
    task = TabularClassification(table.FITTED, table.LABELS)
    network = build_network("tabular_classification", "table", "mlp").eval()
    stored = torch.from_numpy(task.training_rows(folder).inputs)
    served = torch.from_numpy(table.served(96))
    torch.testing.assert_close(task.deployable(network)(served), task.evaluable(network)(stored))


def test_an_unknown_category_says_nothing():
    network = build_network("tabular_classification", "table", "mlp").eval()
    numbers, unknown, known = torch.zeros(1, 1), torch.tensor([[0]]), torch.tensor([[2]])
    before = network(numbers, unknown), network(numbers, known)
    network.vectors.weight.data[2:] *= 2
    torch.testing.assert_close(network(numbers, unknown), before[0])
    assert not torch.equal(network(numbers, known), before[1])
    assert network.wide_codes(unknown).abs().max() == 0


def test_the_area_is_that_of_the_second_label():
    found = TabularClassification(table.FITTED, table.LABELS).metrics(OUTPUTS, TARGETS)
    assert found["auc"] == 0.75  # of four pairs, only 0.4 of a positive row is below 0.6 of another
    assert found["accuracy"] == 0.5


def test_groups_are_told_apart():
    inputs = np.array([[0, 2], [0, 2], [0, 2], [0, 1]], np.float32)
    task = TabularClassification(table.FITTED, table.LABELS, groups=["town"])
    found = task.details(OUTPUTS, Rows(inputs, TARGETS))
    assert found["town: x"] == {
        "rows": 3,
        "accuracy": pytest.approx(2 / 3),
        "positive_share": pytest.approx(1 / 3),
        "selection_rate": pytest.approx(2 / 3),
        "true_positive_rate": 1.0,
        "false_positive_rate": 0.5,
    }
    assert found["town: (missing)"]["selection_rate"] == 0
    assert found["no"]["rows"] == 2
    assert "town: y" not in found


def test_a_group_that_is_no_feature_is_named_with_those_that_are():
    task = TabularClassification(table.FITTED, table.LABELS, groups=["twon"])
    with pytest.raises(ConfigError, match="town"):
        task.details(OUTPUTS, Rows(np.zeros((4, 2), np.float32), TARGETS))


def test_regression_answers_in_the_unit_of_the_column():
    fitted = table.FITTED | {"target": {"mean": 100.0, "std": 20.0}}
    task = TabularRegression(fitted, [])
    torch.testing.assert_close(task.targets(torch.tensor([100.0, 140.0]), 0.0), torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(task.answer()(torch.tensor([[0.0], [2.0]])), torch.tensor([100.0, 140.0]))
    found = task.metrics({"value": np.array([1.0, 2.0, 6.0])}, np.array([1.0, 4.0, 4.0]))
    assert found == {"rmse": pytest.approx((8 / 3) ** 0.5), "mae": pytest.approx(4 / 3), "r2": pytest.approx(-1 / 3)}


def test_classes_are_no_numbers_to_learn():
    with pytest.raises(ConfigError, match="2 classes"):
        TabularRegression({key: value for key, value in table.FITTED.items() if key != "target"}, table.LABELS)
