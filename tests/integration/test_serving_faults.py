"""A server whose surroundings fail goes on answering: the disk of its log is full, its clients vanish."""

import contextlib
import json
import re
import resource
import socket
import struct
import time
from pathlib import Path

import pytest
from serving_process import serving
from tiny_packages import expected, make_package, picture

from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, read_requests

ROOM = 16 * 1024  # bytes that the log may still write


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    digest = make_package(folder / "package")
    with serving(folder / "home") as server:
        assert server.deploy("tiny", folder / "package", "1", digest).status_code == 200
        yield server


def ask(server, count):
    light = expected(100)["probabilities"]["light"]
    for _ in range(count):
        reply = server.predict("tiny", picture(100))
        assert reply.status_code == 200
        assert reply.json()["predictions"][0]["probabilities"]["light"] == pytest.approx(light, abs=1e-6)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_full_disk_holds_up_no_answer_and_loses_no_record(server):
    pid, folder = server.process.pid, server.home / REQUESTS_FOLDER
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM, most))
    ask(server, 150)
    wait_for(lambda: "wait for the next attempt" in server.log.read_text())
    ask(server, 50)
    written = len(list(read_requests(folder, "tiny")))
    assert written < 200
    assert server.http.get("/v2/health/ready").status_code == 200
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))  # room again
    wait_for(lambda: len(list(read_requests(folder, "tiny"))) == 200)


def open_files(server):
    return list(Path(f"/proc/{server.process.pid}/fd").iterdir())


def resident_bytes(server):
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    return int(kilobytes) * 1024


def connect(server, sent):
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(sent)
    return client


def test_clients_that_vanish_or_never_speak_leave_nothing_behind(server):
    body = picture(100)
    whole = b"POST /v1/models/tiny/predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n"
    sent = [b"", b"POST /v1/models/tiny", whole % len(body) + body[:20], whole % len(body) + body]
    files = len(open_files(server))
    clients = [connect(server, sent[i % len(sent)]) for i in range(100)]
    ask(server, 20)
    for client in clients:  # gone with a reset, as when a machine fails
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    ask(server, 20)
    wait_for(lambda: len(open_files(server)) <= files + 2)
    records = list(read_requests(server.home / REQUESTS_FOLDER, "tiny"))
    assert {record["status"] for record in records} <= {200, 499}


def sends_without_reading(client):
    """Ask without end and read nothing, until the server takes no more, which it must long before 60 MB."""
    body = json.dumps({"instances": [{"image": "AAAA"}]}).encode()
    head = b"POST /v1/models/tiny/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    requests = (head + b"content-length: %d\r\n\r\n" % len(body) + body) * 8000  # 1 MB
    client.settimeout(4)  # longer than a busy machine takes for what it has read, after which it reads on
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 60 * len(requests):
            sent += client.send(requests[sent % len(requests) :])
        pytest.fail("the server took it all")


def test_a_client_that_reads_no_answer_holds_up_nobody_and_takes_no_memory(server):
    memory = resident_bytes(server)
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sends_without_reading(client)
        ask(server, 20)
        assert resident_bytes(server) - memory < 100e6  # a gigabyte, when what was sent was kept


def test_a_client_that_reads_no_answer_does_not_hold_up_the_end(tmp_path):
    digest = make_package(tmp_path / "package")
    with serving(tmp_path / "home") as server, socket.socket() as client:
        server.deploy("tiny", tmp_path / "package", "1", digest)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        sends_without_reading(client)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10  # 20 s are allowed to those who read
        assert "1 clients did not read" in server.log.read_text()
