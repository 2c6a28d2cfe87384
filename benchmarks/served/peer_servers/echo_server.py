"""ONNX Runtime and echo: raw bytes in, raw bytes out, on a bare protocol: the best Python can do for one request."""

import asyncio

import httptools
import numpy as np
import uvloop
from onnx_model import OnnxModel, options


class Echo(asyncio.Protocol):
    """One connection; no route, no check, no limit."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self.parser, self.parts = transport, httptools.HttpRequestParser(self), []

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.parts.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        body, self.parts = b"".join(self.parts), []
        model = self.model
        answer = model.run(np.frombuffer(body, model.dtype).reshape(-1, *model.shape)).tobytes()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))


async def main() -> None:
    """Serve until SIGTERM."""
    chosen = options()
    model = OnnxModel(chosen.onnx)
    server = await asyncio.get_running_loop().create_server(lambda: Echo(model), "127.0.0.1", chosen.port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
