"""Whatever is sent, the server says what is wrong with it, and lives on: no 5xx, no silence."""

import contextlib
import json

import pytest
import schemathesis
from fast_lane_server import INFER, ask, fast_lane_server, first_probability, request, tensor
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_packages import SIDE, picture

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.package import load_package
from lepton_tasks.serving.rpc.grpc_api import MessageJob
from lepton_tasks.serving.rpc.grpc_messages import MESSAGES

PREDICT = "/v1/models/tiny/predict"
PICTURE = picture(100)
LIMITS = Limits(body_bytes=100_000, samples=4)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fast_lane_server(tmp_path_factory.mktemp("fuzz"), LIMITS) as server:
        yield server


def refused_or_answered(server, path, body, **headers):
    status, _, answer = ask(server, path, body, **headers)
    assert status < 500, (status, answer)
    assert isinstance(json.loads(answer), dict) or status == 200
    assert status == 200 or json.loads(answer)["error"]


@FEW
@given(body=st.binary(max_size=300), kind=st.sampled_from(["application/json", "image/png", "text/plain", "", "a/b/c"]))
def test_bytes(server, body, kind):
    refused_or_answered(server, PREDICT, body, content_type=kind)
    refused_or_answered(server, INFER, body, content_type=kind)


@FEW
@given(place=st.integers(0, len(PICTURE) - 1), change=st.integers(1, 255), cut=st.integers(0, 40))
def test_pictures_with_a_changed_byte_or_a_lost_end(server, place, change, cut):
    spoilt = bytearray(PICTURE)
    spoilt[place] ^= change
    refused_or_answered(server, PREDICT, bytes(spoilt[: len(spoilt) - cut]), content_type="image/png")


@FEW
@given(key=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), value=JSON_VALUES)
def test_tensors_with_any_value_at_any_place(server, key, value):
    changed = tensor(51)
    changed["inputs"][0][key] = value
    refused_or_answered(server, INFER, json.dumps(changed).encode())
    refused_or_answered(server, INFER, json.dumps({**tensor(51), key: value, "outputs": [value]}).encode())
    refused_or_answered(server, PREDICT, json.dumps({"instances": value}).encode())


@FEW
@given(body=st.binary(max_size=200), length=st.integers(-1, 300) | st.text("0123456789٣²-+ ", max_size=6))
def test_binary_requests_with_any_length_of_header(server, body, length):
    header = str(length).encode("utf-8").decode("latin-1")
    refused_or_answered(server, INFER, body, inference_header_content_length=header)


@FEW
@given(sent=st.binary(min_size=1, max_size=300) | st.binary(max_size=60).map(lambda tail: request(INFER)[:-9] + tail))
def test_what_is_no_http_ends_its_connection_only(server, sent):
    with contextlib.closing(server.connect()) as connection:
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            connection.recv(1000)
    status, _, body = ask(server, INFER, json.dumps(tensor(255)).encode())
    assert (status, first_probability(body)) == (200, pytest.approx(0.5))


@FEW
@given(message=st.binary(max_size=200) | st.builds(lambda cut: wire()[:cut], st.integers(0, 140)), data=st.data())
def test_protobuf(server, package, message, data):
    if data.draw(st.booleans()) and message:
        message = bytearray(message)
        message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        parsed = MESSAGES["ModelInferRequest"].FromString(bytes(message))
    except DecodeError:  # gRPC answers INTERNAL by itself, before our code is asked
        return
    job = MessageJob(parsed, version="7", most=4)
    with contextlib.suppress(DataError):
        (array,) = job.decode(package)
        assert array.shape[1:] == (SIDE, SIDE, 1)


def wire():
    inputs = [{"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 1]}]
    made = MESSAGES["ModelInferRequest"](model_name="tiny", inputs=inputs, raw_input_contents=[bytes(SIDE * SIDE)])
    return made.SerializeToString()


@pytest.fixture(scope="module")
def package(server):
    live = server.app.state.handler._table.get("tiny")
    return load_package(live.package.folder)


def test_the_openapi_description(server):
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.address[1]}/openapi.json")
    operations = [found.ok() for found in schema.exclude(method="DELETE").get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(max_examples=10, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def holds(case):
            reply = case.call(timeout=20)
            assert reply.status_code < 500, reply.text

        holds()
