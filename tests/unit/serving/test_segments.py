import json
import subprocess
import sys
from datetime import UTC, datetime

import polars as pl

from lepton_tasks.serving.observing import segments
from lepton_tasks.serving.observing.request_log import RequestLog
from lepton_tasks.serving.observing.segments import read_segments, seal

RECORDS = [
    {"time": 1764161730.123457, "status": 200, "seconds": 0.01, "label": "cat", "values": {"age": 3, "city": None}},
    {"time": 1764161730.5, "label": 7, "odd": [1, 2]},
    {"time": 2.0, "label": ["a", "b"], "status": "none", "probability": True},
    {"time": 3.0, "values": {}},
]


def test_records_come_back_as_they_were(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS))
    sealed = seal(live)
    assert not live.exists()
    assert list(read_segments(tmp_path, 0.0)) == RECORDS
    table = pl.read_parquet(sealed)
    assert table["label"].to_list() == ["cat", "7", '["a","b"]', None]
    assert table["seconds"].to_list() == [0.01, None, None, None]
    assert table["time"][1] == datetime(2025, 11, 26, 12, 55, 30, 500_000, tzinfo=UTC)


def test_columns_are_read_alone_and_the_time_always(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS))
    seal(live)
    read = [{"time": 1764161730.123457, "status": 200}, {"time": 1764161730.5, "odd": [1, 2], "label": 7}]
    read += [{"time": 2.0, "label": ["a", "b"], "status": "none", "probability": True}, {"time": 3.0}]
    assert list(read_segments(tmp_path, 0.0, ("status", "more"))) == read
    assert list(read_segments(tmp_path, 0.0, ())) == [{"time": record["time"]} for record in RECORDS]


def test_a_crash_between_sealing_and_removing_doubles_nothing(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text('{"time": 1.0}\n{"time": 2.0}\n{"ti')
    lines = live.read_bytes()
    assert seal(live) == tmp_path / "5-0.parquet"
    live.write_bytes(lines)
    (tmp_path / ".6-0.parquet").write_bytes(b"torn")
    assert [record["time"] for record in read_segments(tmp_path, 0.0)] == [1.0, 2.0]


def test_a_file_that_is_sealed_while_it_is_looked_for_is_read_all_the_same(tmp_path):
    live = tmp_path / "5-0.jsonl"
    live.write_text('{"time": 1.0}\n')
    records = read_segments(tmp_path, 0.0)
    (tmp_path / "4-0.jsonl").write_text('{"time": 0.5}\n')
    assert next(records)["time"] == 0.5
    seal(live)
    assert [record["time"] for record in records] == [1.0]


def test_a_full_disk_leaves_the_lines_which_the_next_start_seals(tmp_path, monkeypatch, caplog):
    def full(stream, rows):
        stream.write(b"PAR1")
        raise OSError(28, "No space left on device")

    def logged(seconds):
        log = RequestLog(tmp_path, every=0.01)
        log.start()
        log.add("digits", {"time": seconds})
        log.close()
        return [path.suffix for path in sorted((tmp_path / "digits").iterdir())]

    with monkeypatch.context() as broken:
        broken.setattr(segments, "write_parquet", full)
        assert logged(1.0) == [".jsonl"]
    assert "No space left on device" in caplog.text
    assert logged(2.0) == [".parquet"] * 2
    assert [record["time"] for record in read_segments(tmp_path / "digits", 0.0)] == [1.0, 2.0]


def test_sealing_does_not_import_pandas(tmp_path):
    path = tmp_path / "1-0.jsonl"
    path.write_text('{"time": 1.5, "version": "7"}\n')
    code = "import pathlib, sys; from lepton_tasks.serving.observing.segments import seal"
    code += "; seal(pathlib.Path(sys.argv[1])); print('pandas' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False"]
    assert path.with_suffix(".parquet").exists()


def test_the_latest_file_stays_whatever_the_bounds(tmp_path):
    for begun in (1, 2, 3):
        (tmp_path / f"{begun}-0.jsonl").write_text("x" * 100)
    segments.prune(tmp_path, most_bytes=250, most_files=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-0.jsonl", "3-0.jsonl"]
    segments.prune(tmp_path, most_bytes=1, most_files=1)
    assert [path.name for path in tmp_path.iterdir()] == ["3-0.jsonl"]
