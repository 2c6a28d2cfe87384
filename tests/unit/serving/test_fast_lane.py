"""The fast lane over real sockets: requests written byte by byte."""

import contextlib
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fast_lane_server import INFER, ask, fast_lane_server, first_probability, replies, request, tensor
from tiny_packages import SIDE, expected, picture

from lepton_tasks.serving.http import fast_lane
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.inference import calibration

LIMITS = Limits(body_bytes=100_000, samples=4, read_seconds=0.3, read_bytes_a_second=10**6)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_lane, "_SWEEP_INTERVAL", 0.1)
        patch.setattr(calibration, "_INLINE_SECONDS", 0.0)  # use the worker thread, which tests can block
        with fast_lane_server(tmp_path_factory.mktemp("lane"), LIMITS) as server:
            yield server


def test_both_apis_answer_and_name_the_version(server):
    status, headers, body = ask(server, INFER, json.dumps(tensor(51)).encode())
    assert (status, headers["lepton-version"], headers["content-type"]) == (200, "7", "application/json")
    assert first_probability(body) == pytest.approx(0.1, abs=1e-6)
    status, headers, body = ask(server, "/v1/models/tiny/predict", picture(100), content_type="image/png")
    assert (status, headers["lepton-version"]) == (200, "7")
    assert json.loads(body)["predictions"][0]["probability"] == pytest.approx(expected(100)["probability"], abs=1e-6)


def binary_request(pixels, **parameters):
    entry = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    entry["parameters"] = {"binary_data_size": pixels.nbytes}
    header = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    return header + pixels.tobytes(), len(header)


def test_tensors_travel_as_bytes_both_ways(server):
    pixels = np.stack([np.full((SIDE, SIDE, 1), value, np.uint8) for value in (51, 255)])
    body, length = binary_request(pixels, binary_data_output=True)
    status, headers, answer = ask(server, INFER, body, inference_header_content_length=length)
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    head = int(headers["inference-header-content-length"])
    (output,) = json.loads(answer[:head])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    values = np.frombuffer(answer[head:], "<f4").reshape(output["shape"])
    assert values == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]), abs=1e-6)


@pytest.mark.parametrize("size", [63, 65, 128])
def test_a_header_that_came_before_is_not_believed_of_another_size(server, size):
    body, length = binary_request(np.zeros((1, SIDE, SIDE, 1), np.uint8))
    assert ask(server, INFER, body, inference_header_content_length=length)[0] == 200
    status, _, answer = ask(server, INFER, body[:length] + bytes(size), inference_header_content_length=length)
    assert (status, f"{size} bytes of 1 a value came" in json.loads(answer)["error"]) == (400, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inference_header_content_length": "9" * 5000}, "not a number of bytes"),
        ({"inference_header_content_length": 10_000}, "the body has"),
        ({"inference_header_content_length": "many"}, "not a number of bytes"),
        ({"cut": 1}, "63 bytes of 1 a value came"),
        ({"without": True}, "not JSON"),
        ({"lepton_timeout_ms": "soon"}, "not a time in milliseconds"),
        ({"content_encoding": "gzip"}, "content encoding"),
    ],
)
def test_a_bad_binary_request_gets_a_reason(server, change, reason):
    body, length = binary_request(np.zeros((1, SIDE, SIDE, 1), np.uint8))
    headers = {} if change.pop("without", False) else {"inference_header_content_length": length}
    cut = change.pop("cut", 0)
    status, _, answer = ask(server, INFER, body[: len(body) - cut], **(headers | change))
    assert status in (400, 415)
    assert reason in json.loads(answer)["error"]


def test_many_requests_of_one_connection_are_answered_in_their_order(server):
    values = list(range(0, 250, 10))
    with contextlib.closing(server.connect()) as connection:  # all at once: the first goes the fast way
        connection.sendall(b"".join(request(INFER, json.dumps(tensor(value)).encode()) for value in values))
        found = [first_probability(body) for _, _, body in replies(connection, len(values))]
        assert found == pytest.approx([value / 510 for value in values], abs=1e-6)
        connection.sendall(request(INFER, json.dumps(tensor(255)).encode()))  # and it still lives
        assert first_probability(next(replies(connection))[2]) == pytest.approx(0.5)


def test_a_body_in_pieces_and_one_in_chunks_are_read(server):
    whole = request(INFER, json.dumps(tensor(51)).encode())
    with contextlib.closing(server.connect()) as connection:
        for start in range(0, len(whole), 97):
            connection.sendall(whole[start : start + 97])
            time.sleep(0.001)
        assert first_probability(next(replies(connection))[2]) == pytest.approx(0.1, abs=1e-6)
        body = json.dumps(tensor(51)).encode()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:50], body[50:])) + b"0\r\n\r\n"
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode() + chunks)
        assert first_probability(next(replies(connection))[2]) == pytest.approx(0.1, abs=1e-6)


def test_a_head_that_comes_again_means_the_same_and_another_one_does_not(server):
    with contextlib.closing(server.connect()) as connection:

        def answer(*pieces):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.01)
            return next(replies(connection))

        for value in (51, 52, 53):
            assert first_probability(answer(request(INFER, json.dumps(tensor(value)).encode()))[2]) == pytest.approx(
                value / 510
            )
        again = request(INFER, json.dumps(tensor(54)).encode())
        assert answer(again.replace(b"/tiny/", b"/tony/"))[0] == 404
        assert answer(again.replace(b"content-type", b"content-tape"))[0] == 200
        head, _, body = again.partition(b"\r\n\r\n")
        assert first_probability(answer(head + b"\r\n", b"\r\n" + body)[2]) == pytest.approx(54 / 510)
        assert answer(head + b"\r\n\r\n" + b"x" * len(body))[0] == 400
        around = request(INFER, again)  # its body looks like a request, and is none
        status, _, text = answer(around[: -len(again)], again)
        assert (status, "not JSON" in json.loads(text)["error"]) == (400, True)
        assert first_probability(answer(again)[2]) == pytest.approx(54 / 510)


def test_a_connection_that_rests_is_closed(server, monkeypatch):
    monkeypatch.setattr(server.server.config, "timeout_keep_alive", 0.1)
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):
            connection.sendall(request(INFER, json.dumps(tensor(51)).encode()))
            assert next(replies(connection))[0] == 200
        assert connection.recv(1) == b""


def test_a_body_that_is_too_long_is_refused_and_the_connection_closed(server):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(request(INFER, b"x" * 100_001))
        status, headers, body = next(replies(connection))
        assert (status, headers["connection"]) == (413, "close")
        assert b"larger than 100,000 bytes" in body
        assert connection.recv(1) == b""


CHUNKED = request(INFER, transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")


@pytest.mark.parametrize(
    "opening",
    [b"GET /", request(INFER)[:-2] + b"x: ", CHUNKED + b"1\r\n{\r\n0\r\nx: "],
    ids=["address", "header", "trailer"],
)
def test_headers_without_an_end_are_read_no_further(server, opening):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(opening)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"a" * 65_536)
            raise AssertionError("13 MB were taken")


def test_headers_of_some_length_are_read(server):
    body = json.dumps(tensor(51)).encode()
    assert ask(server, INFER, body, cookie="a" * 30_000)[0] == 200
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(request(INFER, body, x="a" * 400_000))
        assert next(replies(connection))[0] == 431


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_bodies_together_stay_below_a_bound(server, monkeypatch, kind):
    held = server.app.state.handler.limits.buffered
    monkeypatch.setattr(held, "limit", 150_000)
    opening = request(INFER.replace("v2", "v1").replace("infer", "predict"), content_type=kind, content_length=100_000)
    with contextlib.closing(server.connect()) as first, contextlib.closing(server.connect()) as second:
        first.sendall(opening + b"x" * 90_000)
        while held.current < 90_000:
            time.sleep(0.001)
        second.sendall(opening + b"x" * 90_000)
        status, _, body = next(replies(second))
        assert (status, "too much is being sent at once" in json.loads(body)["error"]) == (503, True)
    assert ask(server, INFER, json.dumps(tensor(51)).encode())[0] == 200
    deadline = time.monotonic() + 5
    while held.current and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.current == 0


def test_a_connection_that_rests_keeps_no_body(server):
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):  # the second by the way of heads that are known
            connection.sendall(request(INFER, json.dumps(tensor(51, id="kept" * 2000)).encode()))
            assert next(replies(connection))[0] == 200
            calls = [one.cycle for one in server.server.server_state.connections if one.cycle is not None]
            assert calls
            assert [(call._request.body, call._parts) for call in calls] == [(b"", [])] * len(calls)


def test_a_client_that_asks_to_close_is_closed(server):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(request(INFER, json.dumps(tensor(51)).encode(), connection="close"))
        assert next(replies(connection))[1]["connection"] == "close"
        assert connection.recv(1) == b""


@pytest.mark.parametrize("sent", [b"", b"POST /v2/mod", request(INFER, b"", content_length=50) + b"{"])
def test_a_client_that_is_too_slow_is_closed(server, sent):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.1 < time.monotonic() - began < 5


@pytest.mark.parametrize(("received", "closed"), [(1_000_000, False), (500_000, True)])
def test_who_sends_much_steadily_is_not_slow(received, closed):
    connection = SimpleNamespace(
        transport=SimpleNamespace(is_closing=lambda: False, close=lambda: ended.append(1)),
        lane=SimpleNamespace(limits=LIMITS),
        _reading_since=0.0,
        _received=received,
    )
    ended = []
    fast_lane.FastLaneProtocol.close_if_slow(connection, 1.2)  # 0.3 s, and one more for a million bytes
    assert bool(ended) is closed


class Gate:
    """A job that holds the inference thread."""

    def __init__(self):
        self.open, self.held = threading.Event(), threading.Event()
        self.seen = []

    def decode(self, package):
        self.held.set()
        self.open.wait(10)
        return []

    def answer(self, package, outputs):
        return b""


@pytest.fixture
def gate(server):
    """The inference thread stands still until the gate opens."""
    gate = Gate()
    batcher = server.app.state.handler._table.get("tiny").batcher
    batcher._loop.call_soon_threadsafe(batcher.submit, gate, lambda _: None)
    assert gate.held.wait(10)
    yield gate
    gate.open.set()


def test_a_request_that_waits_beyond_its_time_is_not_computed(server, gate):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(request(INFER, json.dumps(tensor(51)).encode(), lepton_timeout_ms=20))
        time.sleep(0.1)
        gate.open.set()
        status, _, body = next(replies(connection))
    assert status == 504
    assert b"too late" in body


def test_the_request_of_a_client_that_went_away_leaves_the_queue(server, gate):
    connection = server.connect()
    connection.sendall(request(INFER, json.dumps(tensor(51)).encode()))
    key = 'lepton_requests_total{api="v2",model="tiny",status="499",version="7"}'

    def gone():
        with contextlib.closing(server.connect()) as other:
            other.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            return key.encode() in next(replies(other))[2]

    time.sleep(0.05)
    connection.close()
    deadline = time.monotonic() + 5
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone()


def test_a_request_that_there_is_no_room_for_is_refused_as_any_counted_and_logged(server, monkeypatch):
    handler, body, logged = server.app.state.handler, json.dumps(tensor(51)).encode(), []
    monkeypatch.setattr(handler._telemetry._log, "add", lambda model, record: logged.append(record))
    with contextlib.closing(server.connect()) as connection:

        def again():
            connection.sendall(request(INFER, body))
            return next(replies(connection))

        assert first_probability(again()[2]) == pytest.approx(0.1, abs=1e-6)  # caches its head
        with monkeypatch.context() as patch:
            patch.setattr(handler._table.get("tiny").batcher, "backlog", 0)
            before = refused(server)
            began = time.time()
            read, *known = ask(server, INFER, body), *(again() for _ in range(3))
            assert read[1]["retry-after"] == "1"
            for status, headers, told in known:
                assert json.loads(told) == {"error": "0 requests are waiting already. Send fewer at a time."}
                assert (status, headers | {"date": ""}, told) == (503, read[1] | {"date": ""}, read[2])
            assert refused(server) == before + 4
        assert first_probability(again()[2]) == pytest.approx(0.1, abs=1e-6)
    assert [record["status"] for record in logged] == [200, 503, 503, 503, 503, 200]
    for record in logged[1:5]:
        assert record.keys() == logged[1].keys()
        assert (record["error"], record["version"]) == ("0 requests are waiting already. Send fewer at a time.", "7")
        assert began - 0.01 <= record["time"] <= time.time() + 0.01
        assert 0 <= record["seconds"] < 1


def test_a_server_that_leaves_closes_the_connection_of_a_request_that_it_refuses(server, monkeypatch):
    batcher, body = server.app.state.handler._table.get("tiny").batcher, json.dumps(tensor(51)).encode()
    with contextlib.closing(server.connect()) as connection:
        for _ in range(2):
            connection.sendall(request(INFER, body))
            next(replies(connection))
        monkeypatch.setattr(batcher, "backlog", 0)
        monkeypatch.setattr(server.server.config.http.__self__, "stopping", True)
        connection.sendall(request(INFER, body))
        assert next(replies(connection))[0] == 503
        connection.settimeout(5)
        assert connection.recv(1) == b""


def refused(server):
    """How many requests for the model the metrics say were refused."""
    with contextlib.closing(server.connect()) as other:
        other.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        text = next(replies(other))[2].decode()
    key = 'lepton_errors_total{api="v2",model="tiny",status="503",version="7"} '
    return sum(float(line.removeprefix(key)) for line in text.splitlines() if line.startswith(key))


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_changes_no_answer(server, monkeypatch, jump):
    real = time.time
    for shift in (0, jump, 0):
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        status, _, body = ask(server, INFER, json.dumps(tensor(51)).encode(), lepton_timeout_ms=5000)
        assert (status, first_probability(body)) == (200, pytest.approx(0.1, abs=1e-6))
