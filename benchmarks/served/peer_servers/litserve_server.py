"""LitServe."""

import litserve
import numpy as np
from onnx_model import OnnxModel, options


class Api(litserve.LitAPI):
    """Its contract of four verbs."""

    def __init__(self, onnx: str, **settings: object) -> None:
        super().__init__(**settings)
        self.onnx = onnx

    def setup(self, device: str) -> None:
        """In the worker process."""
        self.model = OnnxModel(self.onnx)

    def decode_request(self, request: dict) -> np.ndarray:
        """JSON -> array."""
        tensor = request["inputs"][0]
        return np.array(tensor["data"], self.model.dtype).reshape(tensor["shape"])

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Array -> array."""
        return self.model.run(inputs)

    def encode_response(self, result: np.ndarray) -> dict:
        """Array -> JSON."""
        told = {"name": self.model.output, "shape": list(result.shape), "datatype": "FP32"}
        return {"outputs": [{**told, "data": result.ravel().tolist()}]}


if __name__ == "__main__":
    chosen = options()
    api = Api(chosen.onnx, api_path=f"/v2/models/{chosen.name}/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=chosen.port, log_level="warning", generate_client_file=False)
