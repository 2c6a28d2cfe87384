"""MLServer: a runtime of one's own; `model-settings.json` names it."""

import numpy as np
from mlserver import MLModel, types
from onnx_model import OnnxModel


class Runtime(MLModel):
    """ONNX Runtime; MLServer has no runtime for it."""

    async def load(self) -> bool:
        """Read the graph."""
        self.onnx = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """One request."""
        tensor = payload.inputs[0]
        data = getattr(tensor.data, "root", tensor.data)
        result = self.onnx.run(np.array(data, self.onnx.dtype).reshape(tensor.shape))
        output = types.ResponseOutput(
            name=self.onnx.output, shape=list(result.shape), datatype="FP32", data=result.ravel().tolist()
        )
        return types.InferenceResponse(model_name=self.name, outputs=[output])
