import argparse
import itertools
import os
import socket
from types import SimpleNamespace

import pytest

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving import server, supervisor
from lepton_tasks.serving.supervisor import Supervisor


def test_a_port_where_somebody_listens_is_refused_though_it_could_be_shared():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
            Supervisor(lambda *_: 0, 2, other.getsockname(), grace=1.0)


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 2), (64, 2)])
def test_there_are_two_processes_where_there_are_two_cores(monkeypatch, cores, processes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert server._processes("auto") == processes
    assert server._processes("3") == 3


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_what_is_no_number_of_processes_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="neither auto nor a number"):
        server._processes(text)


def test_what_ends_as_soon_as_it_starts_is_started_ever_more_seldom(monkeypatch):
    now, started = [0.0], []
    ended = SimpleNamespace(is_alive=lambda: False, pid=1, exitcode=1)
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    held = Supervisor(lambda *_: 0, 1, ("127.0.0.1", 0), grace=1.0)
    monkeypatch.setattr(held, "_start", lambda member: started.append(now[0]) or ended)
    for tenth in range(600):
        now[0] = tenth / 10
        held._ensure_running(0)
    assert [round(after - before, 1) for before, after in itertools.pairwise(started)] == [
        0.6,
        1.1,
        2.1,
        4.1,
        8.1,
        *[10.1] * 4,
    ]
    lasting = SimpleNamespace(is_alive=lambda: now[0] < 100, pid=1, exitcode=-9)
    held._processes[0], held._started_at[0], now[0] = lasting, 60.0, 100.0
    held._ensure_running(0)
    assert started[-1] == 100.0
    held._reserved.close()
