"""The KServe SDK's model server."""

import kserve
import numpy as np
import uvicorn
from onnx_model import OnnxModel, options


class Model(kserve.Model):
    """One model."""

    def __init__(self, name: str, onnx: str) -> None:
        super().__init__(name)
        self.onnx, self.ready = OnnxModel(onnx), True

    async def predict(
        self, payload: kserve.InferRequest, headers: dict | None = None, **_: object
    ) -> kserve.InferResponse:
        """One request."""
        tensor = payload.inputs[0]
        result = self.onnx.run(np.asarray(tensor.as_numpy(), self.onnx.dtype))
        output = kserve.InferOutput(self.onnx.output, list(result.shape), "FP32", data=result.ravel().tolist())
        return kserve.InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=[output])


class LocalConfig(uvicorn.Config):
    """KServe listens on every address and has no setting for it."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **{**settings, "host": "127.0.0.1"})


if __name__ == "__main__":
    uvicorn.Config = LocalConfig
    chosen = options()
    server = kserve.ModelServer(http_port=chosen.port, enable_grpc=False, workers=1, access_log_format=None)
    server.start([Model(chosen.name, chosen.onnx)])
