"""The backend `onnxruntime` of a Triton server, by ONNX Runtime's Python package: the one in C++ is in no wheel.

Copied as ``model.py`` into the server's folder of backends; the server gives it `triton_python_backend_utils`.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]
        assert json.loads(args["model_config"])["backend"] == "onnxruntime"

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        feed = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        answers = self.session.run(self.outputs, feed)
        tensors = [triton.Tensor(*pair) for pair in zip(self.outputs, map(np.ascontiguousarray, answers), strict=True)]
        return triton.InferenceResponse(tensors)
