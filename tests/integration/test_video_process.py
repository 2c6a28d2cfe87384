import contextlib
import select
import socket
import time

import psutil
from films import film
from serving_process import serving
from tiny_packages import make_package

AVI = {"content-type": "video/x-msvideo"}


def test_the_decoder_ends_with_its_client_and_others_are_served_meanwhile(tmp_path):
    long = film(tmp_path / "long.avi", 6000, fps=100, step=0)
    digest = make_package(tmp_path / "tiny")
    with serving(tmp_path / "home") as server:
        assert server.deploy("tiny", tmp_path / "tiny", "7", digest).status_code == 200
        process = psutil.Process(server.process.pid)
        for _ in range(3):  # more than there are places: each is given back
            with server.http.stream(
                "POST", "/v1/models/tiny/video", params={"fps": 100}, content=long, headers=AVI
            ) as reply:
                lines = reply.iter_lines()
                assert next(lines) == "event: frame"
                assert len(process.children()) == 1
                assert server.http.get("/v2/health/ready").status_code == 200
            gone = time.monotonic()
            while process.children():
                assert time.monotonic() - gone < 2
                time.sleep(0.02)
        assert list((tmp_path / "home").glob("tmp*")) == []


def test_two_videos_at_a_time_and_no_third(tmp_path):
    short = film(tmp_path / "short.avi", 20)
    digest = make_package(tmp_path / "tiny")
    path, half = "/v1/models/tiny/video", len(short) // 2
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {AVI['content-type']}\r\n"
    with serving(tmp_path / "home") as server, contextlib.ExitStack() as opened:
        assert server.deploy("tiny", tmp_path / "tiny", "7", digest).status_code == 200
        clients = [opened.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(5)]
        for client in clients:  # as long as they have not come in whole, they are being looked at
            client.sendall(f"{head}content-length: {len(short)}\r\n\r\n".encode() + short[:half])
        deadline, refused = time.monotonic() + 20, []
        while len(refused) < 3:
            assert time.monotonic() < deadline
            refused, _, _ = select.select(clients, [], [], 0.1)
        assert len(refused) == 3
        for client in clients:
            if client not in refused:
                client.sendall(short[half:])
            reply = client.makefile("rb")
            assert (b" 503 " if client in refused else b" 200 ") in reply.readline()
            headers = dict(line.decode().strip().split(": ", 1) for line in iter(reply.readline, b"\r\n"))
            assert ("retry-after" in headers) is (client in refused)
