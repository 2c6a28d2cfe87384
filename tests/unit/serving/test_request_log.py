import time
from pathlib import Path

import pytest

from lepton_tasks.serving.observing.request_log import RequestLog, _append, read_requests


def written(folder, records, **options):
    log = RequestLog(folder, every=0.01, **options)
    log.start()
    for record in records:
        log.add("digits", record)
    log.close()
    return log


def test_close_writes_everything_in_order(tmp_path):
    written(tmp_path, [{"time": i} for i in range(1, 1001)])
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == list(range(1, 1001))


def test_only_what_came_later_is_read_back(tmp_path):
    now = time.time()
    written(tmp_path, [{"time": now + i} for i in range(5)])
    assert [r["time"] for r in read_requests(tmp_path, "digits", since=now + 2)] == [now + 3, now + 4]


def test_a_model_without_requests(tmp_path):
    assert list(read_requests(tmp_path, "digits")) == []


def test_a_torn_line_is_left_out_and_never_continued(tmp_path):
    written(tmp_path, [{"time": 1}])
    (torn,) = (tmp_path / "digits").iterdir()
    assert torn.stat().st_mode & 0o777 == 0o600
    with torn.open("ab") as stream:
        stream.write(b'{"time": 2')
    written(tmp_path, [{"time": 3}])
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1, 3]


def test_a_full_queue_drops_and_counts(tmp_path):
    log = RequestLog(tmp_path, capacity=10)
    for i in range(1000):
        log.add("digits", {"time": i + 1})
    assert log.dropped > 500
    assert log.dropped + log.skipped == 990
    log.start()
    log.close()
    assert len(list(read_requests(tmp_path, "digits"))) == 10


def test_files_are_begun_anew_and_the_oldest_goes(tmp_path):
    for i in range(6):
        written(tmp_path, [{"time": i + 1}], files=3)
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [4, 5, 6]


def test_a_record_is_on_disk_within_the_interval(tmp_path):
    log = RequestLog(tmp_path, every=0.05)
    log.start()
    log.add("digits", {"time": 1})
    deadline = time.monotonic() + 5
    while not list(read_requests(tmp_path, "digits")):
        if time.monotonic() > deadline:
            pytest.fail("nothing was written")
        time.sleep(0.01)
    log.close()


def test_what_cannot_be_written_now_is_written_later(tmp_path):
    (tmp_path / "digits").write_text("in the way")  # so that the model's folder cannot be made
    log = RequestLog(tmp_path, every=0.01)
    log.start()
    for i in range(3):
        log.add("digits", {"time": i + 1})
    time.sleep(0.1)
    (tmp_path / "digits").unlink()
    log.add("digits", {"time": 4})
    log.close()
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1, 2, 3, 4]


def test_a_full_disk_is_an_error_and_not_a_silence():
    with Path("/dev/full").open("ab", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        _append(full, b"{}\n")


def test_values_of_samples_are_left_out_when_not_wanted_or_when_much_waits(tmp_path):
    for folder, log in (("off", {"values": False}), ("full", {"capacity": 20})):
        log = RequestLog(tmp_path / folder, **log)
        for second in range(1, 4):
            log.add("tiny", {"time": float(second), "values": {"age": 39}})
        log.start()
        log.close()
    assert ["values" in record for record in read_requests(tmp_path / "off", "tiny")] == [False] * 3
    assert ["values" in record for record in read_requests(tmp_path / "full", "tiny")] == [True, True, False]
