"""What the fast lane asks of a request before it is answered."""

import json

import pytest
from fast_lane_server import INFER, ask, fast_lane_server, replies, request, tensor

from lepton_tasks.serving.access.keys import KEYS_FILE, add_key
from lepton_tasks.serving.http.payload import Limits

BODY = json.dumps(tensor(51)).encode()
SHOP = "https://shop.example"


@pytest.fixture
def guarded(tmp_path):
    key, _ = add_key(tmp_path / "home" / KEYS_FILE, "shop", now=0, models=["tiny"], rate=0.01, burst=3)
    with fast_lane_server(tmp_path, Limits(body_bytes=100_000), origins=[SHOP]) as server:
        server.key = {"authorization": f"Bearer {key}"}
        yield server


def test_the_lane_lets_in_who_may_ask_and_counts(guarded):
    with guarded.connect() as connection:
        connection.sendall(request(INFER, BODY) + request(INFER, BODY, **guarded.key))
        (refused, headers, told), (status, answered, _) = replies(connection, 2)  # the connection stays
    assert (refused, headers["www-authenticate"], list(json.loads(told))) == (401, "Bearer", ["error"])
    assert status == 200
    for found in (headers, answered):
        assert (found["x-content-type-options"], found["cache-control"]) == ("nosniff", "no-store")
    assert ask(guarded, INFER.replace("tiny", "other"), BODY, **guarded.key)[0] == 403
    assert [ask(guarded, INFER, BODY, **guarded.key)[0] for _ in range(2)] == [200, 200]
    status, headers, _ = ask(guarded, INFER, BODY, **guarded.key)
    assert status == 429
    assert 90 <= int(headers["retry-after"]) <= 100
    assert guarded.app.state.access.guard.refused == {401: 1, 403: 1, 429: 1}


def test_keys_are_asked_for_and_charged_where_there_is_no_room(guarded, monkeypatch):
    with guarded.connect() as connection:

        def answer(**headers):
            connection.sendall(request(INFER, BODY, **headers))
            return next(replies(connection))

        assert answer(**guarded.key)[0] == 200
        monkeypatch.setattr(guarded.app.state.handler._table.get("tiny").batcher, "backlog", 0)
        assert [answer(**guarded.key)[0] for _ in range(3)] == [503, 503, 429]
        wrong = {"authorization": "Bearer " + "x" * (len(guarded.key["authorization"]) - len("Bearer "))}
        assert [answer(**wrong)[0] for _ in range(2)] == [401, 401]
        status, headers, _ = answer(**guarded.key, origin=SHOP)
        assert (status, headers["access-control-allow-origin"]) == (429, SHOP)
    assert guarded.app.state.access.guard.refused == {401: 2, 403: 0, 429: 2}


def test_a_refused_body_that_is_too_long_ends_the_connection(guarded):
    status, headers, _ = ask(guarded, INFER, b"x" * 200_000)
    assert (status, headers["connection"]) == (401, "close")


def test_the_lane_answers_pages_of_listed_origins(guarded):
    _, headers, _ = ask(guarded, INFER, BODY, **guarded.key, origin=SHOP)
    assert (headers["access-control-allow-origin"], headers["vary"]) == (SHOP, "Origin")
    _, headers, _ = ask(guarded, INFER, BODY, **guarded.key, origin="https://evil.example")
    assert "access-control-allow-origin" not in headers
