import dataclasses
import itertools
import threading
import types
from pathlib import Path

import pydantic
import pytest
from free_ports import free_port

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Dask
from lepton_tasks.core.errors import ConfigError, DataError, UnavailableError
from lepton_tasks.data.cluster import map_chunks, remote


def test_results_keep_the_order_and_progress_reaches_the_total(tmp_path):
    seen = []
    ctx = dataclasses.replace(RunContext.local(tmp_path, dask={"workers": 3}), on_progress=seen.append)
    chunks = [list(range(start, start + 7)) for start in range(0, 700, 7)]
    assert list(map_chunks(sum, chunks, ctx, total=700, unit="rows")) == [sum(chunk) for chunk in chunks]
    assert (seen[-1].done, seen[-1].total, seen[-1].unit) == (700, 700, "rows")


def test_chunks_are_taken_only_as_they_are_needed(tmp_path):
    taken = []

    def chunks():
        for i in range(1_000):
            taken.append(i)
            yield [i]

    results = map_chunks(sum, chunks(), RunContext.local(tmp_path, dask={"workers": 2}), total=1_000, unit="rows")
    assert next(results) == 0
    assert len(taken) <= 8
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("dask")]


def test_an_error_of_a_task_keeps_its_class_and_text(tmp_path):
    def refuse(rows):
        raise DataError("bad row.", where="x.jpg", fix="Mend it.")

    with pytest.raises(DataError, match=r"x.jpg: bad row. Mend it."):
        list(map_chunks(refuse, [[1]], RunContext.local(tmp_path), total=1, unit="rows"))


def test_a_slow_chunk_does_not_hold_up_the_others(tmp_path):
    release, others = threading.Event(), []

    def work(rows):
        if rows == [0]:
            assert release.wait(10)
        else:
            others.append(rows[0])
            if len(others) == 7:  # the whole window except the slow one
                release.set()
        return rows[0]

    ctx = RunContext.local(tmp_path, dask={"workers": 2})
    assert list(map_chunks(work, [[i] for i in range(20)], ctx, total=20, unit="rows")) == list(range(20))


def test_parts_left_are_told_where_their_number_is_known(tmp_path, monkeypatch):
    seen = []
    ctx = dataclasses.replace(RunContext.local(tmp_path, dask={"workers": 1}), on_progress=seen.append)
    monkeypatch.setattr("time.monotonic", itertools.count(step=3).__next__)
    list(map_chunks(len, [[1, 2], [3, 4], [5, 6]], ctx, total=6, unit="rows"))
    assert [progress.parts_left for progress in seen] == [2, 1, 0]
    assert str(seen[0]) == ": 2 of 6 rows (1.5 s each, 2 parts left, 6 s left)"
    list(map_chunks(len, iter([[1, 2], [3, 4]]), ctx, total=4, unit="rows"))
    assert "parts" not in str(seen[3])


def unreachable(tmp_path, **settings):
    ctx = RunContext.local(tmp_path, dask={"address": f"tcp://127.0.0.1:{free_port()}", "patience": 0.5, **settings})
    return map_chunks(sum, [[1]], ctx, total=1, unit="rows")


def test_a_scheduler_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match=r"tcp://127.0.0.1:\d+ does not answer"):
        list(unreachable(tmp_path))


def test_encryption_needs_its_three_files_and_an_address_that_says_so(tmp_path):
    pems = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    with pytest.raises(ConfigError, match=r"dask.tls: tls://h:1 needs certificates. Give ca, cert and key."):
        list(unreachable(tmp_path, address="tls://h:1"))
    with pytest.raises(ConfigError, match=r"dask.address: tcp://h:1 is not encrypted.*Write tls://"):
        list(unreachable(tmp_path, address="tcp://h:1", tls=pems))
    with pytest.raises(ConfigError, match=rf"dask.tls.ca: there is no file {pems['ca']}."):
        list(unreachable(tmp_path, address="tls://h:1", tls=pems))
    for path in pems.values():
        Path(path).write_text("no PEM")
    with pytest.raises(ConfigError, match=r"dask.tls: the certificate files are invalid"):
        list(unreachable(tmp_path, address="tls://h:1", tls=pems))


def test_an_address_without_scheme_or_port_is_refused():
    for address in ("scheduler:8786", "tls://scheduler", "http://scheduler:8786"):
        with pytest.raises(pydantic.ValidationError, match=r"dask.address"):
            RunContext.local(Path(), dask={"address": address})


@pytest.mark.parametrize("status", ["finished", "lost"])
def test_a_result_that_comes_as_we_give_up_waiting_is_no_lost_scheduler(status):
    class Future:
        def __init__(self):
            self.status, self.looks = "pending", 0

        def exception(self, timeout):
            self.looks += 1
            if self.looks == 1:
                self.status = status
                raise TimeoutError
            self.status = "finished"

    class Client:
        scheduler = types.SimpleNamespace(ncores="ncores")

        def sync(self, asked, callback_timeout):
            return {"tls://worker:1": 2} if asked == "ncores" else asked()

        def gather(self, futures, asynchronous):
            return [7 for _ in futures]

    job = remote._Job(None, iter(()), Dask(address="tls://scheduler:8786"), 4)
    assert job._first_results(Client(), [Future()]) == [7]
