import asyncio
import contextlib

import grpc
import httpx
import uvicorn
from free_ports import free_port
from tiny_packages import SIDE, make_package, picture

from lepton_tasks.serving import app, server
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.rpc.grpc_messages import MESSAGES, SERVICE

MANY_SECONDS = 10  # of draining, and none of them are used


def ask_rpc(channel, method, **fields):
    request, reply = MESSAGES[f"{method}Request"], MESSAGES[f"{method}Response"]
    stub = channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
    )
    return stub(request(**fields), timeout=MANY_SECONDS)


@contextlib.asynccontextmanager
async def stoppable(home, folder):
    """A server, its ports of HTTP and gRPC, and the task in which it serves the tiny model."""
    ports = free_port(), free_port()
    made = app.create_app(home, grpc=f"127.0.0.1:{ports[1]}")
    config = uvicorn.Config(made, port=ports[0], log_config=None, timeout_graceful_shutdown=server.DRAIN_SECONDS)
    running = server._Server(config, made, 0, lambda: None)
    serving = asyncio.create_task(running.serve())
    while not (running.started and made.state.table.restored):
        await asyncio.sleep(0.01)
    await made.state.table.deploy("tiny", folder, version="1", digest=make_package(folder))
    try:
        yield running, ports, serving
    finally:
        running.should_exit = True
        await serving


def test_http_and_grpc_answer_what_they_took_at_the_same_time(tmp_path, monkeypatch):
    """A slow call of each is in flight when the server is told to stop: gRPC takes no more while HTTP still answers."""
    (home := tmp_path / "home").mkdir()
    monkeypatch.setattr(app, "DRAIN_SECONDS", MANY_SECONDS)
    monkeypatch.setattr(server, "DRAIN_SECONDS", MANY_SECONDS)
    at_once = RequestHandler.handle

    async def scenario():
        taken, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def slowly(self, asked):
            taken.release()
            await go_on.wait()
            return await at_once(self, asked)

        monkeypatch.setattr(RequestHandler, "handle", slowly)
        async with (
            stoppable(home, tmp_path / "package") as (running, (port, rpc_port), serving),
            httpx.AsyncClient(trust_env=False) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{rpc_port}") as channel,
        ):
            url, headers = f"http://127.0.0.1:{port}/v1/models/tiny/predict", {"content-type": "image/png"}
            by_http = asyncio.create_task(http.post(url, content=picture(0), headers=headers, timeout=MANY_SECONDS))
            image = {"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 1]}
            by_rpc = ask_rpc(
                channel, "ModelInfer", model_name="tiny", inputs=[image], raw_input_contents=[bytes(SIDE * SIDE)]
            )
            for _ in range(2):
                await taken.acquire()
            running.should_exit = True
            with contextlib.suppress(grpc.aio.AioRpcError):
                while (await ask_rpc(channel, "ServerLive")).live and not by_http.done():
                    await asyncio.sleep(0.01)
            in_flight = not by_http.done() and not by_rpc.done() and not serving.done()
            go_on.set()
            return in_flight, (await by_http).status_code, (await by_rpc).model_version

    assert asyncio.run(scenario()) == (True, 200, "1")
