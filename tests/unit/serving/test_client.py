import asyncio
import base64
import io
import time

import httpx
import numpy as np
import polars as pl
import pytest
from films import film
from PIL import Image
from starlette.testclient import TestClient
from tiny_packages import SIDE, TABLE, make_package, make_sums, picture

from lepton_ai import AsyncClient, Client
from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.calls import Answer, Call
from lepton_tasks.serving.errors import ForbiddenError, NotAllowedError, TooManyError, UnknownModelError


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    """The way to a real application, for both clients."""
    home = tmp_path_factory.mktemp("serving")
    with TestClient(create_app(home)) as app:
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        for name, digest in (
            ("tiny", make_package(home / "tiny")),
            ("sums", make_sums(home / "sums", "tabular", TABLE, shape=[2])),
        ):
            body = {"package": str(home / name), "version": "7", "digest": digest}
            assert app.post(f"/admin/models/{name}", json=body, headers=headers).status_code == 200

        def carry(request):
            sent = request.read()
            headers = {k: v for k, v in request.headers.items() if k not in ("host", "content-length")}
            reply = app.request(request.method, request.url.raw_path.decode(), content=sent, headers=headers)
            return httpx.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)

        yield httpx.MockTransport(carry)


@pytest.fixture
def client(transport):
    with Client("http://server", transport=transport) as client:
        yield client


def light(reply):
    return [round(answer["probabilities"]["light"] * 510) for answer in reply["predictions"]]


def test_a_picture_may_be_bytes_a_path_an_array_or_pillows_own(client, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(100))
    array = np.full((SIDE, SIDE), 100, np.uint8)
    for sample in (
        picture(100),
        tmp_path / "a.png",
        array,
        array[..., np.newaxis],
        Image.open(io.BytesIO(picture(100))),
    ):
        reply = client.predict("tiny", sample)
        assert (light(reply), reply["version"]) == ([100], "7")
    assert light(client.predict("tiny", [picture(10), array, tmp_path / "a.png"])) == [10, 100, 100]
    assert light(client.predict("tiny", {"image": base64.b64encode(picture(30)).decode()})) == [30]


def test_rows_may_be_mappings_lists_of_them_or_a_table(client):
    assert client.predict("sums", {"a": np.float32(1.5), "code": "007"})["predictions"] == [{"value": 3.5}]
    rows = [{"a": 1.0, "code": "8"}, {"a": 2.0, "code": None}]
    assert [answer["value"] for answer in client.predict("sums", rows)["predictions"]] == [4.0, 3.0]
    assert client.predict("sums", pl.DataFrame(rows).to_pandas())["predictions"][0] == {"value": 4.0}


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_are_the_same_as_bytes_and_as_json(client, binary):
    image = np.full((2, SIDE, SIDE, 1), 51, np.uint8)
    image[1] = 255
    found = client.infer("tiny", {"image": image}, binary=binary, version="7", outputs=["probabilities"])
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"], [[0.9, 0.1], [0.5, 0.5]], atol=1e-6)
    assert (found.model, found.version) == ("tiny", "7")
    assert client.metadata("tiny")["inputs"][0] == {"name": "image", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 1]}


def test_what_is_served(client):
    assert [model["name"] for model in client.models()] == ["sums", "tiny"]
    assert client.model("tiny")["labels"] == ["dark", "light"]
    assert client.ready()


@pytest.mark.parametrize(
    ("ask", "kind", "told"),
    [
        (lambda c: c.predict("tony", b"x"), UnknownModelError, r"Did you mean 'tiny'\?.*client\.models"),
        (lambda c: c.predict("tiny", b"x"), DataError, "not a picture"),
        (lambda c: c.predict("tiny", "a.png"), DataError, "base64"),
        (lambda c: c.predict("tiny", []), DataError, "no samples"),
        (lambda c: c.predict("tiny", [b"x", "y"]), DataError, "do not go together"),
        (lambda c: c.predict("tiny", np.zeros((2, 2))), DataError, r"float64 \[2, 2\]"),
        (lambda c: c.infer("tiny", {"image": np.zeros(2, "U1")}), DataError, "astype"),
        (lambda c: c.infer("tiny", {"image": np.zeros((1, 2), np.uint8)}), DataError, "not \\[-1, 8, 8, 1\\]"),
        (lambda c: c.enrol("tiny", "ann", b"x"), ForbiddenError, "api_key"),
    ],
)
def test_an_error_says_what_is_wrong_and_the_way_out(client, ask, kind, told):
    with pytest.raises(kind, match=told):
        ask(client)


def test_many_questions_at_once_meet_their_answers(transport):
    async def ask():
        async with AsyncClient("http://server", transport=transport) as client:
            values = list(range(0, 250, 50))
            replies = await asyncio.gather(*(client.predict("tiny", picture(value)) for value in values))
            tensors = await client.infer("tiny", {"image": np.zeros((1, SIDE, SIDE, 1), np.uint8)})
            with pytest.raises(UnknownModelError):
                await client.model("tony")
            return [light(reply)[0] for reply in replies], tensors["probabilities"].tolist(), await client.ready()

    assert asyncio.run(ask()) == ([0, 50, 100, 150, 200], [[1.0, 0.0]], True)


def test_a_video_gives_its_events(client, transport, tmp_path):
    data = film(tmp_path / "a.avi", 25)
    for video in (tmp_path / "a.avi", data):
        *frames, summary = client.video("tiny", video, fps=1)
        assert [(event["event"], event["frame"]) for event in frames] == [("frame", 0), ("frame", 10), ("frame", 20)]
        assert frames[2]["answer"]["label"] == "dark"
        assert (summary["event"], summary["answered"]) == ("summary", 3)
    with pytest.raises(DataError, match="no frame of the video"):
        list(client.video("tiny", b"no film"))
    with pytest.raises(NotAllowedError, match="LEPTON_VIDEO_SOURCES"):
        list(client.video("tiny", "/etc/passwd"))

    async def ask():
        async with AsyncClient("http://server", transport=transport) as other:
            return [event["event"] async for event in other.video("tiny", tmp_path / "a.avi", fps=1)]

    assert asyncio.run(ask()) == ["frame", "frame", "frame", "summary"]


def busy(*replies):
    """A server that gives one reply after the other, and the requests that came."""
    left, came = list(replies), []

    def handle(request):
        came.append(request)
        status, headers = left.pop(0)
        return httpx.Response(status, headers=headers, json={"models": []} if status == 200 else {"error": "busy."})

    return httpx.MockTransport(handle), came


def test_a_busy_server_is_asked_again_when_it_says_so():
    transport, came = busy((503, {"retry-after": "0"}), (429, {"retry-after": "0"}), (200, {}))
    with Client("http://server", transport=transport, api_key="secret") as client:
        assert client.models() == []
    assert [request.headers["authorization"] for request in came] == ["Bearer secret"] * 3


def test_a_request_may_name_its_version_and_who_asks(client):
    assert light(client.predict("tiny", [picture(100)], version="7", key="ann")) == [100]
    with pytest.raises(UnknownModelError, match="Version 7 is served"):
        client.predict("tiny", picture(100), version="6")
    transport, came = busy((200, {}))
    with Client("http://server", transport=transport) as other:
        other.predict("tiny", b"x", key="ann")
    assert came[0].headers["lepton-key"] == "ann"


def test_waiting_has_an_end():
    for options, replies in (
        ({"retries": 1}, [(503, {"retry-after": "0"})] * 2),
        ({"timeout": 1.0}, [(429, {"retry-after": "5"})]),
    ):
        transport, came = busy(*replies)
        began = time.monotonic()
        with (
            Client("http://server", transport=transport, **options) as client,
            pytest.raises((UnavailableError, TooManyError), match="busy"),
        ):
            client.models()
        assert (len(came), time.monotonic() - began < 1) == (len(replies), True)


def test_no_server_and_no_lepton_server_are_told_apart():
    with Client("http://127.0.0.1:9") as client:
        assert not client.ready()
        with pytest.raises(UnavailableError, match="lepton up"):
            client.models()
    other = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with Client("http://server", transport=other) as client, pytest.raises(DataError, match="Lepton server"):
        client.models()


@pytest.mark.parametrize(("said", "seconds"), [("2", 2.0), ("30", 30.0), ("31", None), ("", 1.0), ("soon", 1.0)])
def test_a_busy_server_is_asked_again_when_it_says_unless_that_is_long(said, seconds):
    answer = Answer(503, {"retry-after": said}, b"", "http://x")
    assert Call("GET", "/").wait(answer, 2) == seconds
    assert Call("GET", "/", retried=False).wait(answer, 2) is None
    assert Call("GET", "/").wait(Answer(500, {}, b"", "http://x"), 2) is None
