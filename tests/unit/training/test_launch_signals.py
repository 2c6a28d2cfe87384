import os
import signal
import subprocess
import sys

import pytest

from lepton_tasks.training.launch import _forward_signals


class Told(Exception):
    pass


@pytest.fixture
def terminated():
    """SIGTERM raises `Told`, as whoever runs the stage may have arranged."""

    def handler(number, frame):
        raise Told

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


def process(code):
    return subprocess.Popen([sys.executable, "-S", "-c", code])


def test_a_signal_goes_to_the_training_while_it_runs(terminated):
    running = process("import time; time.sleep(60)")
    with _forward_signals(running):
        os.kill(os.getpid(), signal.SIGTERM)
        assert running.wait(10) == -signal.SIGTERM


def test_a_signal_after_its_end_is_not_swallowed(terminated):
    ended = process("")
    ended.wait(10)
    with pytest.raises(Told), _forward_signals(ended):
        os.kill(os.getpid(), signal.SIGTERM)
