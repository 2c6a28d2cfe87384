"""A real server in a thread, for tests of the fast lane over sockets."""

import contextlib
import json
import socket
import threading
import time

import uvicorn
from tiny_packages import SIDE, make_package

from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.http.fast_lane import FastLane

INFER = "/v2/models/tiny/infer"


class RunningServer:
    """A running server."""

    def __init__(self, app, server):
        self.app, self.server = app, server
        self.address = server.servers[0].sockets[0].getsockname()

    def connect(self):
        return socket.create_connection(self.address, timeout=10)


@contextlib.contextmanager
def fast_lane_server(folder, limits, *, connection_limit=None, **options):
    """Serves version 7 of the tiny model with one inference thread; its state lies in `folder`."""
    home, package = folder / "home", folder / "package"
    home.mkdir(exist_ok=True)
    digest = make_package(package)
    app = create_app(home, limits=limits, workers=1, **options)
    protocol = FastLane(app.state.handler, app.state.access, connection_limit).protocol
    made = uvicorn.Server(uvicorn.Config(app, port=0, loop="uvloop", http=protocol, log_config=None))
    thread = threading.Thread(target=made.run)
    thread.start()
    while not made.started:
        time.sleep(0.005)
    server = RunningServer(app, made)
    body = json.dumps({"package": str(package), "version": "7", "digest": digest}).encode()
    token = (home / "admin.token").read_text().strip()
    assert ask(server, "/admin/models/tiny", body, authorization=f"Bearer {token}")[0] == 200
    yield server
    made.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def request(path, body=b"", version="1.1", **headers):
    headers = {"host": "x", "content-length": len(body), "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


def replies(connection, count=1):
    """That many replies: status, headers, body."""
    stream = connection.makefile("rb")
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().rstrip().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        yield status, headers, stream.read(int(headers["content-length"]))


def ask(server, path, body=b"", **headers):
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(request(path, body, **headers))
        return next(replies(connection))


def tensor(value, **more):
    data = [value] * SIDE * SIDE
    return {"inputs": [{"name": "image", "shape": [1, SIDE, SIDE, 1], "datatype": "UINT8", "data": data}], **more}


def first_probability(body):
    return json.loads(body)["outputs"][0]["data"][1]
