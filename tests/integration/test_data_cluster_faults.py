import contextlib
import itertools
import os
import signal
import socket
import threading
import time

import numpy as np
import pytest
from dask_hosts import Hosts, certificates, eventually, kill_group
from free_ports import free_port

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.data.cluster import map_chunks

pytestmark = pytest.mark.slow

CHUNKS = [list(range(start, start + 5)) for start in range(0, 150, 5)]
SUMS = [sum(chunk) for chunk in CHUNKS]


def slow_sum(rows):
    time.sleep(0.1)
    return sum(rows)


def noise(rows):
    return np.random.default_rng(rows[0]).integers(0, 256, 25 << 20, dtype=np.uint8)


def slow_noise(rows):
    time.sleep(0.5)  # a worker looks at its memory ten times a second
    return noise(rows)


def where_am_i(rows):
    return os.getpid()


def computed(ctx, function=slow_sum, chunks=CHUNKS):
    return map_chunks(function, chunks, ctx, total=sum(map(len, chunks)), unit="rows")


@pytest.fixture
def hosts(tmp_path):
    cluster = Hosts(tmp_path / "dask")
    yield cluster
    cluster.close()


def context(tmp_path, address, **settings):
    return RunContext.local(tmp_path / "state", data_root=str(tmp_path), dask={"address": address, **settings})


def test_a_worker_killed_in_its_work_changes_nothing(hosts, tmp_path):
    hosts.scheduler()
    killed, _ = hosts.worker(), hosts.worker()
    results = []
    for result in computed(context(tmp_path, hosts.address)):
        results.append(result)
        if len(results) == 10:
            kill_group(killed)
    assert results == SUMS


def test_a_scheduler_killed_and_started_again_changes_nothing(hosts, tmp_path, caplog):
    scheduler, worker = hosts.scheduler(), hosts.worker()
    results = []
    for result in computed(context(tmp_path, hosts.address)):
        results.append(result)
        if len(results) == 10:
            kill_group(scheduler)
            kill_group(worker)
            hosts.scheduler()
            hosts.worker()
    assert results == SUMS
    assert "sending" in caplog.text


def test_without_scheduler_patience_ends(hosts, tmp_path):
    scheduler = hosts.scheduler()
    hosts.worker()
    hosts.ready()
    results = computed(context(tmp_path, hosts.address, patience=5))
    assert next(results) == SUMS[0]
    kill_group(scheduler)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=hosts.address):
        list(results)
    assert time.monotonic() - began < 15


def test_without_workers_patience_ends(hosts, tmp_path):
    hosts.scheduler()
    worker = hosts.worker()
    hosts.ready()
    results = computed(context(tmp_path, hosts.address, patience=5))
    assert next(results) == SUMS[0]
    kill_group(worker)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="no worker for 5 s"):
        list(results)
    assert 4 < time.monotonic() - began < 20


def test_a_scheduler_that_hangs_is_not_waited_for_for_ever(hosts, tmp_path):
    scheduler = hosts.scheduler()
    hosts.worker()
    hosts.ready()
    results = computed(context(tmp_path, hosts.address, patience=3))
    assert next(results) == SUMS[0]
    scheduler.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=hosts.address):
        list(results)
    assert time.monotonic() - began < 30


class Wire:
    """A TCP connection between two hosts that can be cut: what is on it is lost, and nobody answers."""

    def __init__(self, port):
        self.target, self.listener, self.ends = ("127.0.0.1", port), None, []
        self.port = free_port()
        self.mend()

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def cut(self):
        for end in [self.listener, *self.ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.ends = []

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self.target)
                self.ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=[source, sink], daemon=True).start()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_a_connection_cut_for_five_seconds_loses_nothing_and_doubles_nothing(hosts, tmp_path, caplog):
    hosts.scheduler()
    hosts.worker()
    hosts.ready()
    wire = Wire(int(hosts.address.rpartition(":")[2]))
    results = []
    try:
        for result in computed(context(tmp_path, f"tcp://127.0.0.1:{wire.port}")):
            results.append(result)
            if len(results) == 10:
                wire.cut()
                threading.Timer(5, wire.mend).start()
    finally:
        wire.cut()
    assert results == SUMS
    assert "is lost; sending" in caplog.text


def test_a_worker_short_of_memory_spills_to_disk_and_lives(hosts, tmp_path):
    hosts.scheduler()
    hosts.worker("--memory-limit", "600MB", "--nthreads", "4")
    ctx = context(tmp_path, hosts.address)
    (pid,) = set(computed(ctx, where_am_i, [[0]]))
    results = computed(ctx, slow_noise, [[i] for i in range(32)])  # 800 MiB; the window alone is 400 MiB
    first = next(results)
    eventually(lambda: sum(f.stat().st_size for f in hosts.folder.rglob("storage/*") if f.is_file()) > 50 << 20)
    for i, result in enumerate(itertools.chain([first], results)):
        assert np.array_equal(result, noise([i])), i
    assert set(computed(ctx, where_am_i, [[0]])) == {pid}


@pytest.mark.parametrize("bare_host", ["scheduler", "worker"])
def test_a_host_without_our_package_is_named_as_the_cause(hosts, tmp_path, bare_host):
    preload = tmp_path / "bare.py"
    preload.write_text("import sys\nsys.modules['lepton_tasks'] = None\n")
    options = {bare_host: ["--preload", str(preload)]}
    hosts.scheduler(*options.get("scheduler", []))
    hosts.worker(*options.get("worker", []))
    with pytest.raises(ConfigError, match=r"lacks Lepton's package at tcp.*lepton_tasks.*Run scheduler and workers"):
        list(computed(context(tmp_path, hosts.address)))


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding a folder from one process needs root")
def test_a_worker_that_does_not_see_the_state_folder_is_named_as_the_cause(hosts, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    hosts.scheduler()
    unmount = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {state} && exec "$@"', "-"]
    hosts.worker(prefix=unmount)
    with pytest.raises(ConfigError, match=rf"does not see the state folder {state}"):
        list(computed(context(tmp_path, hosts.address)))


@pytest.fixture
def encrypted(tmp_path):
    cluster = Hosts(tmp_path / "dask", certificates(tmp_path / "tls"))
    cluster.scheduler()
    cluster.worker()
    cluster.ready()
    yield cluster
    cluster.close()


def test_encrypted_work_and_who_is_refused(encrypted, tmp_path):
    ctx = context(tmp_path, encrypted.address, tls=encrypted.tls)
    assert list(computed(ctx)) == SUMS
    stranger = certificates(tmp_path / "other", "stranger")
    with pytest.raises(ConfigError, match=r"dask.tls: no encrypted connection .*CERTIFICATE_VERIFY_FAILED"):
        list(computed(context(tmp_path, encrypted.address, tls=stranger)))
    mixed = {**stranger, "ca": encrypted.tls["ca"]}  # we would trust the scheduler, and it must not trust us
    with pytest.raises(ConfigError, match=r"dask.tls: no encrypted connection"):
        list(computed(context(tmp_path, encrypted.address, tls=mixed, patience=3)))
    plain = encrypted.address.replace("tls://", "tcp://")
    with pytest.raises(UnavailableError, match="tls:// or tcp://"):
        list(computed(context(tmp_path, plain, patience=3)))
