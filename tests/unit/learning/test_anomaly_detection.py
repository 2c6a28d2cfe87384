import numpy as np
import pytest
import torch
from tiny_features import build_network, build_task, tiny

from lepton_tasks.core.catalogue import MODELS, OUTPUT_CODECS
from lepton_tasks.models.autoencoder import CELL, CellErrors, Watch
from lepton_tasks.models.inference import predict

FEATURES = pytest.mark.parametrize("features", ["image", "windows"])


class Zeros(torch.nn.Module):
    def __init__(self, threshold):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, samples):
        return torch.zeros_like(samples)


def test_the_score_is_the_error_of_the_worst_cell():
    series = torch.zeros(2, 2 * CELL + 1, 2)
    series[0, CELL, 0] = 4.0  # 16, over one of two numbers and one of eight steps
    series[1, -1] = 1.0  # alone in its cell
    scores, thresholds, unusual, errors = Watch(CellErrors(Zeros(0.9), [0, 0], [1, 1], sides=1))(series)
    torch.testing.assert_close(errors, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert scores.tolist() == [1.0, 1.0]
    torch.testing.assert_close(thresholds, torch.tensor([0.9, 0.9]))
    assert unusual.tolist() == [True, True]


@FEATURES
def test_the_threshold_is_a_quantile_of_the_training_rows_and_is_kept_with_the_weights(features, tmp_path):
    tiny(features).write(tmp_path)
    task, network = (
        build_task("anomaly_detection", features),
        build_network("anomaly_detection", features, "autoencoder"),
    )
    rows = task.training_rows(tmp_path)
    before = predict(task.deployable(network), rows.inputs, task.outputs)
    assert not before["is_anomaly"].any()
    task.calibrate(network, rows)
    assert float(network.state_dict()["threshold"]) == pytest.approx(float(np.quantile(before["score"], 0.99)))
    assert predict(task.deployable(network), rows.inputs, task.outputs)["is_anomaly"].sum() == 1  # of 96


@FEATURES
def test_something_is_put_into_copies_behind_the_rows(features, tmp_path):
    tiny(features).write(tmp_path)
    task = build_task("anomaly_detection", features)
    stored = np.load(tmp_path / "test" / "inputs.npy")
    rows = task.evaluation_rows(tmp_path, "test")
    assert rows.targets.tolist() == [0] * 24 + [1] * 24
    np.testing.assert_array_equal(rows.inputs[:24], stored)
    changed = (rows.inputs[24:] != stored).reshape(24, -1).sum(axis=1)
    assert (changed >= 1).all()
    assert changed.max() <= stored[0].size / 4
    np.testing.assert_array_equal(rows.inputs, task.evaluation_rows(tmp_path, "test").inputs)


@pytest.mark.parametrize("shape", [(20, 13, 3), (11, 5)])
def test_samples_of_any_size_come_back_in_theirs(shape):
    network = MODELS.build("autoencoder", {"width": 4}, sample_shape=shape)
    samples = torch.zeros(2, shape[-1], *shape[:-1])
    assert network(samples).shape == samples.shape


def test_the_answer_says_where():
    outputs = {"score": np.array([2.0]), "threshold": np.array([1.0]), "is_anomaly": np.array([True])}
    errors = np.zeros((1, 2, 3))
    errors[0, 1, 2] = 2.0
    answer = OUTPUT_CODECS.build("anomaly", {"sides": [13, 20], "cell": 8}).encode(outputs | {"errors": errors}, 0)
    assert answer == {
        "is_anomaly": True,
        "score": 2.0,
        "threshold": 1.0,
        "where": {"xmin": 16, "ymin": 8, "xmax": 20, "ymax": 13},
    }
    series = OUTPUT_CODECS.build("anomaly", {"sides": [20], "cell": 8}).encode(outputs | {"errors": errors[:, 1]}, 0)
    assert series["where"] == {"first_step": 16, "last_step": 19}
