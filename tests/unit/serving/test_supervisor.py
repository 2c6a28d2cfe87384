import argparse
import os
import socket

import pytest

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving import server
from lepton_tasks.serving.supervisor import Supervisor


def test_a_port_where_somebody_listens_is_refused_though_it_could_be_shared():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:\d+ cannot be listened on: Address already in use"):
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
