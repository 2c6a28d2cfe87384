import os
import sys

import pytest

from lepton_tasks.training import prepared

ECHO = "import sys; line = sys.stdin.readline(); open(sys.argv[1], 'w').write(line)"


@pytest.fixture(autouse=True)
def told(tmp_path, monkeypatch):
    """The file in which a process of another kind than a training's leaves what it was told."""
    file = tmp_path / "told"
    monkeypatch.setattr(prepared, "WORKER", [sys.executable, "-S", "-c", ECHO, str(file)])
    with prepared.dismissed():
        yield file


def test_what_waits_is_told_its_arguments_once(told):
    prepared.prepare(os.environ)
    prepared.prepare(os.environ)
    process = prepared.take(["job.json", "--threads=2"], os.environ)
    assert process.wait(10) == 0
    assert told.read_text() == '["job.json", "--threads=2"]\n'
    assert prepared.take(["job.json"], os.environ) is None


def test_it_is_of_no_use_if_what_libraries_read_has_changed(told):
    prepared.prepare({**os.environ, "OMP_NUM_THREADS": "1"})
    assert prepared.take([], {**os.environ, "OMP_NUM_THREADS": "2"}) is None
    assert prepared.take([], {**os.environ, "OMP_NUM_THREADS": "1", "GX_ANALYTICS_ENABLED": "false"}) is not None


def test_nobody_is_left_who_was_not_needed(told):
    with prepared.dismissed():
        prepared.prepare(os.environ)
        (_, process), *_ = prepared._waiting
    assert process.returncode == -9
    assert not told.exists()


def test_a_process_that_has_died_is_not_given(told):
    prepared.prepare(os.environ)
    (_, process), *_ = prepared._waiting
    process.kill()
    process.wait()
    assert prepared.take(["job.json"], os.environ) is None
