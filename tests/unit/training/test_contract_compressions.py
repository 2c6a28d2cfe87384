"""Every line of the catalogue's COMPRESSIONS: the graph it makes runs, is smaller, and answers much alike."""

import numpy as np
import onnxruntime
import pytest
import torch

from lepton_tasks.core.catalogue import COMPRESSIONS
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.training.export import export_onnx

PARAMS = {
    "distilled": {"student": {"name": "cnn", "params": {"width": 16}}, "epochs": 2},
    "pruned": {"share": 0.75, "epochs": 2},
}


class Mixed(torch.nn.Module):
    """A convolution over stored pixels and dense layers: something for each kind of compression."""

    def __init__(self, width=64):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.dense = torch.nn.Sequential(torch.nn.Linear(16 * 8 * 8, width), torch.nn.ReLU(), torch.nn.Linear(width, 3))

    def forward(self, image):
        features = torch.relu(self.convolution(image.permute(0, 3, 1, 2).float() / 255))
        return torch.softmax(self.dense(features.flatten(1)), dim=1)


def answers(path, rows):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_inputs()[0], session.get_outputs()[0], session.run(None, {"image": rows})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    rows = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(Mixed().eval(), rows[:2], path, outputs=["probabilities"], opset=20)

    def teach(student, made, *, share, temperature, epochs, prune=0.75, rate=None):
        """What training gives, without its time: a smaller network that answers alike."""
        assert (student is None, share, temperature, epochs) == (rate is not None, 0.5, 2.0, 2)
        torch.manual_seed(0)
        export_onnx(Mixed(round(64 * (1 - prune))).eval(), rows[:2], made, outputs=["probabilities"], opset=20)

    return CompressionInput(path, lambda count: rows[:count], teach), rows


@pytest.mark.parametrize("name", COMPRESSIONS.names())
def test_the_graph_is_smaller_and_answers_much_alike(name, exported, tmp_path):
    model, rows = exported
    made = tmp_path / "made.onnx"
    before = model.graph.read_bytes()
    COMPRESSIONS.build(name, PARAMS.get(name, {})).compress(model, made)
    (taken, given, found), (wanted_input, wanted_output, wanted) = answers(made, rows), answers(model.graph, rows)
    assert (taken.name, taken.type, taken.shape[1:]) == (wanted_input.name, wanted_input.type, wanted_input.shape[1:])
    assert (given.name, given.type) == (wanted_output.name, wanted_output.type)
    np.testing.assert_allclose(found, wanted, atol=0.5 if name in PARAMS else 0.03)  # none was trained
    assert made.stat().st_size < 0.7 * model.graph.stat().st_size
    assert model.graph.read_bytes() == before
    assert len(answers(made, rows[:1])[2]) == 1  # the batch is still open


@pytest.mark.parametrize("name", PARAMS)
def test_a_student_can_be_compressed_in_turn(exported, tmp_path, name):
    model, rows = exported
    COMPRESSIONS.build(name, PARAMS[name]).compress(model, tmp_path / "student.onnx")
    COMPRESSIONS.build(name, {**PARAMS[name], "then": "int8_static"}).compress(model, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * (tmp_path / "student.onnx").stat().st_size
    found, wanted = (answers(tmp_path / name, rows)[2] for name in ("int8.onnx", "student.onnx"))
    np.testing.assert_allclose(found, wanted, atol=0.03)
