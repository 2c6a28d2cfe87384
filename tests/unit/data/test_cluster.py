import socket
import threading

import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.data.cluster import map_chunks


def test_results_keep_the_order_and_progress_reaches_the_total(tmp_path):
    seen = []
    ctx = RunContext.local(tmp_path, dask={"workers": 3})
    object.__setattr__(ctx, "on_progress", seen.append)
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
    assert len(taken) <= 16
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("dask")]


def test_an_error_of_a_task_keeps_its_class_and_text(tmp_path):
    def refuse(rows):
        raise DataError("bad row.", where="x.jpg", fix="Mend it.")

    with pytest.raises(DataError, match=r"x.jpg: bad row. Mend it."):
        list(map_chunks(refuse, [[1]], RunContext.local(tmp_path), total=1, unit="rows"))


def test_a_scheduler_that_is_not_there_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr("lepton_tasks.data.cluster._PATIENCE", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        ctx = RunContext.local(tmp_path, dask={"address": address})
        with pytest.raises(UnavailableError, match=address):
            list(map_chunks(sum, [[1]], ctx, total=1, unit="rows"))
