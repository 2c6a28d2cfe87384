import numpy as np
import pytest
import torch

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.learning.classification import confusion
from lepton_tasks.learning.image_classification import ImageClassification

LABELS = ["a", "b", "c"]
OUTPUTS = {"probabilities": np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.0, 1.0, 0.0]], np.float32)}
TARGETS = np.array([0, 1, 1, 2])
TASK = ImageClassification({}, LABELS)


def test_metrics_are_those_computed_by_hand():
    found = TASK.metrics(OUTPUTS, TARGETS)
    # a: precision 1/2, recall 1 -> 2/3; b: 1/2, 1/2 -> 1/2; c: nothing right -> 0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 1e-7]).mean(), rel=1e-5)


def test_pictures_without_a_label_are_told(tmp_path):
    for split, rows in (("train", TASK.training_rows), ("test", lambda folder: TASK.evaluation_rows(folder, "test"))):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "inputs.npy", np.zeros((4, 8, 8, 1), np.uint8))
        np.save(tmp_path / split / "targets.npy", np.array([0, -1, 1, -1]))
        with pytest.raises(DataError, match=rf"{split}: 2 of 4 pictures have no label. Add the cleaning step `unlab"):
            rows(tmp_path)


def test_rows_of_the_confusion_matrix_are_true_labels():
    np.testing.assert_array_equal(confusion(OUTPUTS["probabilities"], TARGETS, 3), [[1, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_the_baseline_answers_with_the_most_frequent_label():
    found = TASK.baseline(Rows(TARGETS, TARGETS))
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(1.5 * np.log(2))  # entropy of 1/4, 1/2, 1/4


def test_smoothed_targets_keep_their_sum():
    targets = TASK.targets(torch.tensor([2]), 0.3)
    torch.testing.assert_close(targets, torch.tensor([[0.1, 0.1, 0.8]]))


def test_the_served_network_normalises_as_training_does():
    class Channels(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    fitted = {"mean": [0.5, 0.0, 0.0], "std": [0.25, 1.0, 1.0]}
    stored = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    task = ImageClassification(fitted, LABELS)
    logits = task.trainable(Channels())(task.inputs(stored))
    torch.testing.assert_close(logits, torch.tensor([[2.0, 1.0, 1.0]]))
    torch.testing.assert_close(task.deployable(Channels())(stored), torch.softmax(logits, 1))


def test_with_mirror_a_picture_and_its_mirror_image_get_the_same_answer():
    class LeftColumn(torch.nn.Module):
        def forward(self, images):
            return images[:, :, :, 0].mean(dim=2)

    fitted = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    stored = torch.randint(256, (1, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = ImageClassification(fitted, LABELS).deployable(LeftColumn())
    mirrored = ImageClassification(fitted, LABELS, mirror=True).deployable(LeftColumn())
    torch.testing.assert_close(mirrored(stored), (plain(stored) + plain(stored.flip(2))) / 2)
    torch.testing.assert_close(mirrored(stored), mirrored(stored.flip(2)))


def test_the_best_epoch_is_the_more_accurate_one_and_then_the_surer_one():
    order = [{"accuracy": 0.9, "loss": 0.1}, {"accuracy": 0.91, "loss": 0.9}, {"accuracy": 0.91, "loss": 0.8}]
    assert sorted([order[2], order[0], order[1]], key=TASK.score) == order
