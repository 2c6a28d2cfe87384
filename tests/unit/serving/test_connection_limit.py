"""The connection limit keeps file descriptors for new clients and files."""

import contextlib
import json
import resource
import subprocess
import sys
import time

import pytest
from fast_lane_server import INFER, ask, fast_lane_server, replies, request, tensor

from lepton_tasks.serving.http.connection_limit import ConnectionLimit
from lepton_tasks.serving.http.payload import Limits

BODY = json.dumps(tensor(51)).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fast_lane_server(tmp_path_factory.mktemp("limit"), Limits(), connection_limit=ConnectionLimit(20)) as server:
        yield server


def test_the_longest_idle_connections_are_closed_at_the_limit(server):
    with contextlib.ExitStack() as stack:
        busy, kept = (stack.enter_context(contextlib.closing(server.connect())) for _ in range(2))
        busy.sendall(request(INFER, BODY)[:-5])  # an incomplete request is not idle
        time.sleep(0.05)
        idle = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(40)]
        for _ in range(3):
            assert ask(server, INFER, BODY)[0] == 200
        for closed in (kept, idle[0]):
            with contextlib.suppress(ConnectionResetError):
                assert closed.recv(1) == b""
        busy.sendall(request(INFER, BODY)[-5:])
        assert next(replies(busy))[0] == 200
        idle[-1].sendall(request(INFER, BODY))
        assert next(replies(idle[-1]))[0] == 200


def test_a_client_is_refused_if_no_connection_is_idle(server):
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(20)]
        for connection in busy:
            connection.sendall(request(INFER, BODY)[:-5])
        time.sleep(0.1)
        with contextlib.closing(server.connect()) as late:
            status, headers, _ = next(replies(late))
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        busy[0].sendall(request(INFER, BODY)[-5:])
        assert next(replies(busy[0]))[0] == 200
    assert ask(server, INFER, BODY)[0] == 200


def test_the_limit_of_open_files_is_raised_and_a_quarter_is_reserved():
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000))\n"
        "from lepton_tasks.serving.http.connection_limit import max_connections\n"
        "print(max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1000
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["750", "1000", "1000"]
