import contextlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from certificates import Authority

from lepton_tasks.serving.http.tls import Certificate

SCRIPT = Path(__file__).parents[3] / "docker" / "healthcheck.py"


@contextlib.contextmanager
def answering(status, body, certificate=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            server.socket = certificate.context().wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def check(*arguments):
    command = [sys.executable, "-IS", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("status", "body", "part", "code", "says"),
    [
        (200, {}, [], 0, ""),
        (503, {}, [], 1, "503"),
        (200, {"triggerer": {"status": "healthy"}}, ["triggerer"], 0, ""),
        (200, {"triggerer": {"status": "unhealthy"}}, ["triggerer"], 1, "triggerer is unhealthy"),
        (200, {"triggerer": {"status": None}}, ["triggerer"], 1, "triggerer is None"),
        (200, {}, ["triggerer"], 1, "KeyError"),
    ],
)
def test_the_exit_status_tells_whether_the_service_is_well(status, body, part, code, says):
    with answering(status, body) as url:
        done = check(url, *part)
    assert (done.returncode, says in done.stderr) == (code, True)


def test_a_service_with_tls_is_asked_without_its_authority(tmp_path):
    certificate = Certificate(*Authority(tmp_path).issue()[:2])
    with answering(200, {}, certificate) as url:
        assert check(url.replace("http:", "https:")).returncode == 0


def test_nobody_answers():
    done = check("http://127.0.0.1:9/")
    assert done.returncode == 1
    assert "refused" in done.stderr
