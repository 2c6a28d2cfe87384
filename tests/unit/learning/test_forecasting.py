import numpy as np
import pytest
import torch
from tiny_features import build_network, windows

from lepton_tasks.core.catalogue import OUTPUT_CODECS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.learning.forecasting import Forecasting

TASK = Forecasting(windows.FITTED, [], season=4)
INPUTS = np.zeros((1, windows.WINDOW, 2), np.float32)
INPUTS[0, :, 0] = np.arange(windows.WINDOW)  # 10 + 2 * step in its own unit
ROWS = Rows(INPUTS, np.array([[34.0, 36.0, 38.0]], np.float32))


def test_persistence_says_the_last_value_and_the_season_what_was_then():
    assert TASK.baseline(ROWS) == {
        "mae": pytest.approx(4),
        "rmse": pytest.approx(((4 + 16 + 36) / 3) ** 0.5),
        "last_mae": pytest.approx(6),
        "last_rmse": pytest.approx(6),
    }
    found = TASK.details({"forecast": ROWS.targets + 1}, ROWS)
    assert found["step 3"]["persistence_mae"] == pytest.approx(6)
    assert found["step 3"]["season_before_mae"] == pytest.approx(38 - (10 + 2 * 10))
    assert found["step 3"]["gain"] == pytest.approx(1 - 1 / 6)


@pytest.mark.parametrize("model", ["temporal_cnn", "rnn_forecaster"])
def test_a_network_begins_as_persistence(model):
    network = build_network("forecasting", "windows", model)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    said = TASK.deployable(network.eval())(torch.from_numpy(INPUTS))
    torch.testing.assert_close(said, torch.full((1, 3), 32.0))


def test_what_is_not_seen_is_foretold_by_the_mean():
    task = Forecasting(windows.FITTED | {"target": "z"}, [])
    assert task.baseline(ROWS)["mae"] == pytest.approx(26)


def test_a_season_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match="13 rows"):
        Forecasting(windows.FITTED, [], season=13)


def test_a_convolution_does_not_look_ahead():
    layers = build_network("forecasting", "windows", "temporal_cnn").eval().layers
    series = torch.randn(1, 2, 12)
    changed = series.clone()
    changed[:, :, 8:] += 1
    torch.testing.assert_close(layers(series)[:, :, :8], layers(changed)[:, :, :8])
    changed = series.clone()
    changed[:, :, 0] += 1
    assert not torch.equal(layers(series)[:, :, -1], layers(changed)[:, :, -1])


def test_the_answer_names_target_and_step():
    answer = OUTPUT_CODECS.build(*TASK.output_codec()).encode({"forecast": np.array([[1.5, 2.0]])}, 0)
    assert answer == {"target": "x", "step_seconds": 3600, "forecast": [1.5, 2.0]}
