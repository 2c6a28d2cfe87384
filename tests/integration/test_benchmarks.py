"""Benchmarks take the same options, and one that is told to end takes along what it started."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from stage_hosts import runs, wait_for

from benchmarks.__main__ import names
from benchmarks.served.sequential import sequential
from benchmarks.served.wire import Request
from lepton_tasks.core.environment import project_root
from lepton_tasks.deployment.embedded import SERVICES
from lepton_tasks.deployment.embedded_processes import recorded, running_processes

AMONG_OTHERS = "from benchmarks.__main__ import *; leave_on_signals(); run('pipeline')"


@pytest.mark.parametrize("name", names())
def test_every_benchmark_takes_the_same_options(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    told = subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True, timeout=120).stdout
    assert {"--quick", "--json"} <= set(re.findall(r"--\w+", told))


@pytest.mark.parametrize("way", [["-m", "benchmarks.pipeline"], ["-c", AMONG_OTHERS]], ids=["alone", "among others"])
def test_a_benchmark_told_to_end_takes_its_platform_along(tmp_path, way):
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, *way, "--quick"], cwd=project_root(), env=variables) as process:
        try:
            root = wait_for(lambda: next((p.parent for p in tmp_path.glob("*/run")), None), 60)
            wait_for(lambda: set(SERVICES) <= set(recorded(root)), 60)
            started = running_processes(root)
            assert len(started) >= len(SERVICES)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert not any(runs(one) for one in started)
    assert list(tmp_path.iterdir()) == []


def _answering(listener, parts):
    """Answers every request over one connection with `parts`, each sent on its own."""
    connection, _ = listener.accept()
    with connection:
        while connection.recv(65_536):
            for part in parts:
                connection.sendall(part)


@pytest.mark.parametrize(
    ("status", "refused"), [(b"200 OK", 0.0), (b"503 Service Unavailable", 1.0)], ids=["answered", "refused"]
)
def test_sequential_load_reads_responses_that_arrive_in_parts(status, refused):
    parts = [b"HTTP/1.1 " + status + b"\r\nContent-", b"Length: 6\r\n\r\nabc", b"def"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answering, args=(listener, parts), daemon=True).start()
        load = sequential(listener.getsockname()[1], "/", Request(b"{}", {}), seconds=0.1)
    assert load.refused == refused
    assert (load.rate > 0) == (refused == 0)
    assert 0 < load.p50 <= load.p99 < 1000


def test_sequential_load_needs_a_length():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answering, args=(listener, [b"HTTP/1.1 200 OK\r\n\r\n"]), daemon=True).start()
        with pytest.raises(RuntimeError, match="no content-length"):
            sequential(listener.getsockname()[1], "/", Request(b"{}", {}), seconds=0.1)
