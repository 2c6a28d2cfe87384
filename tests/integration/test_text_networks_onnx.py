"""Networks that read texts, as ONNX graphs beside torch: recurrent layers and attention are where exporters differ."""

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_features import build_task, tiny

from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.models.inference import predict
from lepton_tasks.training.export import export_onnx

NETWORKS = [
    ("text_classification", "rnn", {"cell": "lstm", "embedding": 8, "width": 8}),
    ("text_classification", "ngrams", {"embedding": 8, "buckets": 16, "longest": 3}),
    ("text_classification", "transformer", {"width": 8, "heads": 2, "layers": 1}),
    ("text_classification", "weighted_words", {"width": 8}),
    ("language_modelling", "rnn_language_model", {"cell": "gru", "width": 16}),
]


@pytest.mark.parametrize(("task", "model", "params"), NETWORKS, ids=lambda value: str(value))
def test_the_graph_answers_as_torch_does(task, model, params, tmp_path):
    torch.manual_seed(0)
    learning = build_task(task, "text")
    network = learning.deployable(MODELS.build(model, params, **learning.network_arguments()))
    rows = tiny("text").served(9)
    export_onnx(network, rows[:2], tmp_path / "model.onnx", outputs=learning.outputs, opset=20)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for some in (rows, rows[3:4]):
        expected = predict(network, some, learning.outputs)
        found = session.run(list(learning.outputs), {"tokens": some})
        for name, values in zip(learning.outputs, found, strict=True):
            np.testing.assert_allclose(values, expected[name], atol=2e-6, rtol=1e-5)
