"""The real inference server in a process of its own."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
from free_ports import free_port


class Server:
    def __init__(self, home, port, *options):
        self.home, self.port = home, port
        self.url = f"http://127.0.0.1:{port}"
        if "--processes" not in options:
            options = ("--processes", "1", *options)  # starts in half the time
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


class Load:
    """Threads that ask without pause.

    Args:
        server: Whom.
        ask: Called with a client; returns what is counted in `answers`. Errors of HTTP are kept in `failures`.
        threads: How many.
        anew: Whether each call gets a connection of its own.
    """

    def __init__(self, server, ask, *, threads=4, anew=False):
        self.answers, self.failures = collections.Counter(), []
        self._url, self._ask_once, self._anew, self._stop = server.url, ask, anew, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _client(self):
        return httpx.Client(base_url=self._url, timeout=60, trust_env=False)

    def _ask(self):
        http = self._client()
        while not self._stop.is_set():
            try:
                self.answers[self._ask_once(http)] += 1
            except httpx.HTTPError as error:
                self.failures.append(error)
            if self._anew:
                http.close()
                http = self._client()
        http.close()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
