import json
import time

import pyarrow.parquet as pq
import pytest

from lepton_tasks.cli.requests import export_requests
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.observing.request_log import RequestLog


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    for member in (0, 1):
        log = RequestLog(tmp_path / "serving" / "requests", member=member)
        log.start()
        for i in range(3):
            shared = {
                "time": time.time() - 7200 * (i == 0),
                "version": "7",
                "api": "v1",
                "status": 200,
                "seconds": 0.01,
            }
            log.add("tiny", {**shared, "label": f"{member}-{i}", "values": {"brightness": 0.5}, "odd": i})
        log.close()
    return tmp_path


def test_the_log_of_all_processes_becomes_one_table(home):
    output = home / "requests.parquet"
    assert export_requests("tiny", output, hours=1) == 4
    rows = pq.read_table(output).to_pylist()
    assert {row["label"] for row in rows} == {"0-1", "0-2", "1-1", "1-2"}
    assert rows[0]["time"].tzinfo is not None
    assert json.loads(rows[0]["values"]) == {"brightness": 0.5}
    assert json.loads(rows[0]["more"])["odd"] in (1, 2)


def test_a_model_that_nobody_asked_leaves_no_file(home):
    with pytest.raises(ConfigError, match="there were no requests to 'other'"):
        export_requests("other", home / "requests.parquet", hours=1)
    assert not list(home.glob("*requests.parquet*"))
