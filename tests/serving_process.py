"""The real inference server in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import httpx
from free_ports import free_port


class Server:
    def __init__(self, home, port, *options):
        self.home, self.port = home, port
        self.url = f"http://127.0.0.1:{port}"
        self.log = home / "server.log"
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lepton_tasks.serving", "--port", str(port), "--home", str(home), *options],
                stdout=stream,
                stderr=stream,
            )
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def connect_anew(self):
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    @property
    def admin_headers(self):
        return {"Authorization": f"Bearer {(self.home / 'admin.token').read_text().strip()}"}

    def wait_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/v2/health/ready").status_code == 200:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"not ready after {seconds} s: {self.log.read_text()}")

    def deploy(self, name, folder, version, digest):
        body = {"package": str(folder), "version": version, "digest": digest, "by": "test"}
        return self.http.post(f"/admin/models/{name}", json=body, headers=self.admin_headers)

    def predict(self, name, payload):
        headers = {"content-type": "image/png"}
        return self.http.post(f"/v1/models/{name}/predict", content=payload, headers=headers)

    def stop(self, with_signal=signal.SIGTERM):
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
        status = self.process.wait(30)
        self.http.close()
        return status


@contextlib.contextmanager
def serving(home, port=None, options=()):
    home.mkdir(parents=True, exist_ok=True)
    server = Server(home, port or free_port(), *options)
    try:
        yield server.wait_ready()
    finally:
        server.stop(signal.SIGKILL)
