"""FastAPI with pydantic models on uvicorn: what most people write."""

import uvicorn
from fastapi import FastAPI
from onnx_model import OnnxModel, options
from pydantic import BaseModel, create_model

if __name__ == "__main__":
    chosen = options()
    model = OnnxModel(chosen.onnx)

    class Tensor(BaseModel):
        """One output."""

        name: str
        shape: list[int]
        datatype: str
        data: list[float]

    class Answer(BaseModel):
        """All outputs."""

        outputs: list[Tensor]

    values = list[float] if model.datatype == "FP32" else list[int]
    Input = create_model("Input", name=str, shape=list[int], datatype=str, data=values)
    Request = create_model("Request", inputs=list[Input])
    app = FastAPI()

    @app.post(f"/v2/models/{chosen.name}/infer")
    async def infer(request: Request) -> Answer:  # type: ignore[valid-type]
        """One request."""
        return Answer(**model.infer(request.model_dump()))

    uvicorn.run(app, host="127.0.0.1", port=chosen.port, loop="uvloop", http="httptools", log_level="warning")
