import fcntl
import time
from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from lepton_tasks.serving.observing.request_log import RequestLog, _append, read_outcomes, read_requests


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
    now = float(int(time.time()))
    written(tmp_path, [{"time": now + i} for i in range(5)])
    assert [r["time"] for r in read_requests(tmp_path, "digits", since=now + 2)] == [now + 3, now + 4]


def test_a_model_without_requests(tmp_path):
    assert list(read_requests(tmp_path, "digits")) == []


def test_a_torn_line_is_left_out_and_never_continued(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "100-0.jsonl").write_text('{"time": 1}\n{"time": 2')
    written(tmp_path, [{"time": 3}])
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1, 3]


def test_what_is_no_json_is_dropped_and_all_else_written(tmp_path):
    log = RequestLog(tmp_path, every=0.01)
    log.start()
    log.add("digits", {"time": 1, "label": "half \ud800"})
    log.add_outcome("digits", {"time": 1, "id": "a", "label": 10**40})
    log.add("digits", {"time": 2, "label": np.float32(0.5)})
    time.sleep(0.1)
    log.add_outcome("digits", {"time": 2, "id": "b", "label": 7})
    log.close()
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [2]
    assert [r["id"] for r in read_outcomes(tmp_path, "digits")] == ["b"]
    assert log.dropped == 2


def test_an_error_of_one_round_does_not_end_the_log(tmp_path, monkeypatch):
    log = RequestLog(tmp_path, every=0.01)
    monkeypatch.setattr(log, "_turn_over", lambda: 1 / 0)
    log.start()
    time.sleep(0.05)
    log.add("digits", {"time": 1})
    log.close()
    assert len(list(read_requests(tmp_path, "digits"))) == 1


def test_one_process_of_a_server_seals_at_a_time(tmp_path):
    log = RequestLog(tmp_path, every=3600, file_bytes=1)
    for i in (1, 2):
        log.add("digits", {"time": i})
        log._write()
    with (tmp_path / ".sealing").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        log._turn_over()
        assert (log._sealing, len(log._full)) == (None, 1)
    log._turn_over()
    process, files = log._sealing
    assert process.wait(30) == 0
    assert [path.with_suffix(".parquet").exists() for path in files] == [True]
    log._turn_over()  # the lock is free again
    assert (log._sealing, log._full) == (None, [])
    log.start()
    log.close()
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1, 2]


def test_files_of_other_people_are_left_alone(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("notes.jsonl", "truth-2.jsonl", "labels.parquet"):
        (folder / name).write_text("mine")
    written(tmp_path, [{"time": 1}], most_files=1)
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1]
    assert len(list(folder.iterdir())) == 4


def test_files_are_readable_by_their_owner_only(tmp_path):
    log = RequestLog(tmp_path, every=3600)
    log.start()
    log.add("digits", {"time": 1})
    log._write()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "digits").iterdir()] == [0o600]
    log.close()
    (sealed,) = (tmp_path / "digits").iterdir()
    assert (sealed.suffix, sealed.stat().st_mode & 0o777) == (".parquet", 0o600)


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
        written(tmp_path, [{"time": i + 1}], most_files=3)
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [3, 4, 5, 6]


def test_files_together_stay_below_the_bound(tmp_path):
    for i in range(30):
        written(tmp_path, [{"time": 100 * i + j, "error": str(j * 7919)} for j in range(100)], most_bytes=20_000)
    assert sum(path.stat().st_size for path in (tmp_path / "digits").iterdir()) < 25_000
    assert max(r["time"] for r in read_requests(tmp_path, "digits")) == 2999


def test_a_full_file_is_sealed_while_requests_come(tmp_path):
    log = RequestLog(tmp_path, every=0.01, file_bytes=100)
    log.start()
    for i in range(1, 41):
        log.add("digits", {"time": i, "status": 200})
        time.sleep(0.01)
    deadline = time.monotonic() + 20
    times = []
    while len(times) < 40 or not list((tmp_path / "digits").glob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        times = [r["time"] for r in read_requests(tmp_path, "digits")]
    assert times == list(range(1, 41))
    log.close()
    assert {path.suffix for path in (tmp_path / "digits").iterdir()} == {".parquet"}
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == list(range(1, 41))


def test_what_processes_left_that_are_no_more_is_sealed_by_the_first(tmp_path):
    (tmp_path / "digits").mkdir()
    for member in (0, 1, 2):
        (tmp_path / "digits" / f"10{member}-{member}.jsonl").write_text(f'{{"time": {member + 1}}}\n')
    written(tmp_path, [], member=0, members=2)
    left = {path.suffix: path.name for path in (tmp_path / "digits").iterdir() if path.suffix == ".jsonl"}
    assert left == {".jsonl": "101-1.jsonl"}
    assert [r["time"] for r in read_requests(tmp_path, "digits")] == [1, 2, 3]


def test_an_old_file_is_sealed_though_it_is_not_full(tmp_path):
    log = RequestLog(tmp_path, every=3600, file_seconds=0.0)
    log.add("digits", {"time": 1})
    log._write()
    log._turn_over()
    assert log._sealing[0].wait(20) == 0
    assert [path.suffix for path in (tmp_path / "digits").iterdir()] == [".parquet"]


def test_outcomes_lie_beside_the_requests(tmp_path):
    log = RequestLog(tmp_path, capacity=2, sample=0.0)
    assert [log.add_outcome("digits", {"time": i, "id": f"a{i}", "label": "7"}) for i in (1, 2, 3)] == [
        True,
        True,
        False,
    ]
    log.start()
    log.close()
    assert list(read_requests(tmp_path, "digits")) == []
    assert [(one["id"], one["label"]) for one in read_outcomes(tmp_path, "digits")] == [("a1", "7"), ("a2", "7")]


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


class Small(FileIO):
    """A file that takes so many bytes of a write."""

    room = 100

    def write(self, data):
        return super().write(data[: self.room])


def test_a_part_that_was_written_is_taken_back_however_often(tmp_path):
    with Small(tmp_path / "1-0.jsonl", "ab") as stream:
        _append(stream, b"{}\n")
        stream.room = 2
        for _ in range(3):
            with pytest.raises(OSError, match="no space is left"):
                _append(stream, b"{}\n")
        stream.room = 100
        _append(stream, b"{}\n")
    assert (tmp_path / "1-0.jsonl").read_bytes() == b"{}\n{}\n"


def test_values_of_samples_are_left_out_when_not_wanted_or_when_much_waits(tmp_path):
    for folder, log in (("off", {"values": False}), ("full", {"capacity": 20})):
        log = RequestLog(tmp_path / folder, **log)
        for second in range(1, 4):
            log.add("tiny", {"time": float(second), "values": {"age": 39}})
        log.start()
        log.close()
    assert ["values" in record for record in read_requests(tmp_path / "off", "tiny")] == [False] * 3
    assert ["values" in record for record in read_requests(tmp_path / "full", "tiny")] == [True, True, False]
