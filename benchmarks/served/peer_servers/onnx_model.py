"""What every peer's server has: the options, and the model in ONNX Runtime with one thread, as ours has it."""

import argparse

import numpy as np
import onnxruntime

_TYPES = {
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(float)": ("FP32", np.float32),
}


def options() -> argparse.Namespace:
    """``--port``, ``--name`` and ``--onnx``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True, help="what the model is called")
    parser.add_argument("--onnx", required=True, help="the graph")
    return parser.parse_args()


class OnnxModel:
    """A graph of one input and one output."""

    def __init__(self, path: str) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        told = self.session.get_inputs()[0]
        self.input, self.output = told.name, self.session.get_outputs()[0].name
        self.shape = tuple(told.shape[1:])  # of one sample
        self.datatype, self.dtype = _TYPES[told.type]

    def run(self, batch: np.ndarray) -> np.ndarray:
        """The output of a batch."""
        return self.session.run([self.output], {self.input: batch})[0]

    def infer(self, request: dict) -> dict:
        """A request of the Open Inference Protocol, answered."""
        tensor = request["inputs"][0]
        result = self.run(np.array(tensor["data"], self.dtype).reshape(tensor["shape"]))
        data = result.ravel().tolist()
        return {"outputs": [{"name": self.output, "shape": list(result.shape), "datatype": "FP32", "data": data}]}
