"""BentoML; the model comes by environment variables, since `bentoml serve` passes no options on."""

import os

import bentoml
import numpy as np
from onnx_model import OnnxModel


@bentoml.service(workers=1, traffic={"timeout": 60})
class Service:
    """One worker, no batching: with it, some requests are refused."""

    def __init__(self) -> None:
        self.model = OnnxModel(os.environ["ONNX"])

    @bentoml.api(route="/infer")
    def infer(self, values: np.ndarray) -> np.ndarray:
        """One request: an array as JSON, in and out."""
        return self.model.run(values.astype(self.model.dtype, copy=False))
