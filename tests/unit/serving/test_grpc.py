import asyncio

import grpc
import numpy as np
import pytest
from free_ports import free_port
from tiny_packages import SIDE, make_package

from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.rpc.grpc_messages import MESSAGES, SERVICE

PIXELS = np.stack([np.full((SIDE, SIDE, 1), value, np.uint8) for value in (51, 255)])
EXPECTED = [0.9, 0.1, 0.5, 0.5]


async def call(channel, method, timeout=10, metadata=None, **fields):
    request, reply = MESSAGES[f"{method}Request"], MESSAGES[f"{method}Response"]
    stub = channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
    )
    return await stub(request(**fields), timeout=timeout, metadata=metadata)


def tensor(**changes):
    return {"name": "image", "datatype": "UINT8", "shape": PIXELS.shape} | changes


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Runs a conversation with a server that serves the tiny model."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    digest = make_package(folder := tmp_path_factory.mktemp("package"))
    runner = asyncio.Runner()

    def run(conversation):
        async def scenario():
            app = create_app(home, grpc=f"127.0.0.1:{port}")
            async with app.router.lifespan_context(app):
                await app.state.handler._table.deploy("tiny", folder, version="7", digest=digest)
                while not app.state.handler._table.restored:
                    await asyncio.sleep(0.01)
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return await conversation(channel)

        return runner.run(scenario())

    with runner:
        yield run


def test_tensors_raw_and_listed_get_the_same_answer(talk):
    async def conversation(channel):
        raw = await call(
            channel, "ModelInfer", model_name="tiny", id="a", inputs=[tensor()], raw_input_contents=[PIXELS.tobytes()]
        )
        contents = {"uint_contents": PIXELS.ravel().tolist()}
        listed = await call(channel, "ModelInfer", model_name="tiny", inputs=[tensor(contents=contents)])
        return raw, listed

    raw, listed = talk(conversation)
    assert (raw.model_version, raw.id, list(raw.outputs[0].shape)) == ("7", "a", [2, 2])
    assert np.frombuffer(raw.raw_output_contents[0], "<f4") == pytest.approx(EXPECTED, abs=1e-6)
    assert list(listed.outputs[0].contents.fp32_contents) == pytest.approx(EXPECTED, abs=1e-6)


def test_health_and_metadata(talk):
    async def conversation(channel):
        live, ready = await call(channel, "ServerLive"), await call(channel, "ServerReady")
        model = await call(channel, "ModelReady", name="tiny")
        return live.live, ready.ready, model.ready, await call(channel, "ModelMetadata", name="tiny")

    live, ready, model, metadata = talk(conversation)
    assert (live, ready, model) == (True, True, True)
    assert (list(metadata.versions), metadata.inputs[0].datatype) == (["7"], "UINT8")
    assert list(metadata.inputs[0].shape) == [-1, SIDE, SIDE, 1]


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"model_name": "tony"}, grpc.StatusCode.NOT_FOUND, "Did you mean 'tiny'"),
        ({"model_version": "6"}, grpc.StatusCode.NOT_FOUND, "no version '6'"),
        ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT, "list of one tensor"),
        ({"inputs": [tensor(datatype="FP32")]}, grpc.StatusCode.INVALID_ARGUMENT, "not UINT8"),
        ({"inputs": [tensor(shape=[2, 2])]}, grpc.StatusCode.INVALID_ARGUMENT, "not [-1, 8, 8, 1]"),
        ({"raw_input_contents": [b"x"]}, grpc.StatusCode.INVALID_ARGUMENT, "1 values came"),
        ({"outputs": [{"name": "logits"}]}, grpc.StatusCode.INVALID_ARGUMENT, "no output 'logits'"),
    ],
)
def test_a_bad_request_gets_a_code_and_a_reason(talk, fields, code, reason):
    request = {"model_name": "tiny", "inputs": [tensor()], "raw_input_contents": [PIXELS.tobytes()]} | fields

    async def conversation(channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "ModelInfer", **request)
        return caught.value

    error = talk(conversation)
    assert error.code() == code
    assert reason in error.details()


def test_keys_are_asked_for_here_too(talk, monkeypatch):
    monkeypatch.setenv("LEPTON_API_KEY", "lepton_known")
    infer = {"model_name": "tiny", "inputs": [tensor()], "raw_input_contents": [PIXELS.tobytes()]}

    async def conversation(channel):
        refused = []
        asked = {"ModelInfer": infer, "ModelReady": {"name": "tiny"}, "ModelMetadata": {"name": "tiny"}}
        for method, fields in asked.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, method, **fields, metadata=[("authorization", "Bearer lepton_other")])
            refused.append(caught.value.code())
        answered = await call(channel, "ModelInfer", **infer, metadata=[("authorization", "Bearer lepton_known")])
        return refused, answered, (await call(channel, "ServerLive")).live

    refused, answered, live = talk(conversation)
    assert refused == [grpc.StatusCode.UNAUTHENTICATED] * 3
    assert (answered.model_version, live) == ("7", True)
