"""A network that makes texts, as the graph that is served: a loop whose length the texts decide."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny_features import build_network, build_task, text_pair

from lepton_tasks.models.inference import predict
from lepton_tasks.training.export import export_onnx


@pytest.mark.parametrize("model", ["seq2seq_transformer", "seq2seq_gru"])
def test_the_graph_makes_the_same_texts_whatever_the_size_of_the_batch(model, tmp_path):
    torch.manual_seed(0)
    task = build_task("translation", "text_pair")
    network = build_network("translation", "text_pair", model)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    stored = torch.from_numpy(task.training_rows(text_pair.write(tmp_path)).inputs)
    for _ in range(40):  # until texts end, and at different places
        loss = task.loss(task.trainable(network)(stored), task.targets(stored, 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    served, rows = task.deployable(network).eval(), text_pair.served(9)
    export_onnx(served, rows[:2], tmp_path / "model.onnx", outputs=task.outputs, opset=20)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = predict(served, rows, task.outputs)
    assert len({int((tokens != 0).sum()) for tokens in expected["tokens"]}) > 1
    for first, last in ((0, 1), (1, 9)):
        tokens, scores = session.run(None, {"source": rows[first:last]})
        np.testing.assert_array_equal(tokens, expected["tokens"][first:last])
        np.testing.assert_allclose(scores, expected["scores"][first:last], rtol=1e-4, atol=1e-5)
