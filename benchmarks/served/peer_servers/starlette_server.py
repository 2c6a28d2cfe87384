"""Starlette and orjson on uvicorn: the least that a framework can cost."""

import orjson
import uvicorn
from onnx_model import OnnxModel, options
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if __name__ == "__main__":
    chosen = options()
    model = OnnxModel(chosen.onnx)

    async def infer(request: Request) -> Response:
        """One request."""
        answer = model.infer(orjson.loads(await request.body()))
        return Response(orjson.dumps(answer), media_type="application/json")

    app = Starlette(routes=[Route(f"/v2/models/{chosen.name}/infer", infer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=chosen.port, loop="uvloop", http="httptools", log_level="warning")
