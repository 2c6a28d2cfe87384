"""Request logs of two servers, copied into one folder."""

import json
import os
import time

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lepton_tasks.core.release_protocols import Address
from lepton_tasks.serving.app import _add_error_handlers
from lepton_tasks.serving.http.log_files import log_router
from lepton_tasks.serving.http.middleware import model_of_path
from lepton_tasks.serving.observing.request_log import read_outcomes, read_requests
from lepton_tasks.serving.observing.segments import prune, read_segments, seal, unsealed
from lepton_tasks.stages import log_copies
from lepton_tasks.stages.log_copies import gather

IDS = {"a": "aaaaaaaa", "b": "bbbbbbbb"}
SERVERS = [Address("http://a"), Address("http://b")]


def app_of(folder, name):
    app = FastAPI()

    @app.middleware("http")
    async def keyed(request, call_next):
        request.state.key = request.headers.get("authorization", "")
        return await call_next(request)

    app.include_router(log_router(folder, IDS[name]))
    _add_error_handlers(app)
    return app


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """The folders of both servers' logs, and a way to ask them."""
    folders = {name: tmp_path / name for name in IDS}
    apps = {name: app_of(folder, name) for name, folder in folders.items()}

    class Client(TestClient):
        away = set()

        def __init__(self, *, headers, **_):
            super().__init__(apps["a"], headers=headers, raise_server_exceptions=False)

        def get(self, url, **options):
            name = httpx.URL(url).host
            if name in Client.away:
                raise httpx.ConnectError("refused")
            return TestClient(apps[name], headers=self.headers).get(url, **options)

    monkeypatch.setattr(httpx, "Client", Client)
    return folders, Client


def write(folder, name, *times, place="tiny"):
    path = folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.writelines(json.dumps({"time": float(at), "id": f"{folder.name}{at}"}) + "\n" for at in times)
    return path


def copied(tmp_path, key="k", **options):
    return gather(tmp_path / "here", "tiny", SERVERS, key=key, **options)


def times(tmp_path, since=0.0):
    return [record["time"] for record in read_requests(tmp_path / "here", "tiny", since=since)]


def test_all_is_copied_once_and_what_is_new_the_next_time(tmp_path, logs):
    folders, _ = logs
    write(folders["a"], "10-0.jsonl", 1, 4)
    write(folders["b"], "11-0.jsonl", 2, 3)
    write(folders["b"], "12-0.jsonl", 9, place="tiny/outcomes")
    first = copied(tmp_path)
    assert (first.servers, first.faults, times(tmp_path)) == (2, {}, [1, 2, 3, 4])
    assert [one["id"] for one in read_outcomes(tmp_path / "here", "tiny")] == ["b9"]
    assert copied(tmp_path).bytes == 0
    size = folders["a"].joinpath("tiny/10-0.jsonl").stat().st_size
    longer = write(folders["a"], "10-0.jsonl", 5).stat().st_size
    assert copied(tmp_path).bytes == longer - size > 0
    assert times(tmp_path) == [1, 2, 3, 4, 5]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "here" / "tiny").glob("*-*.*")} == {0o600}


def test_a_sealed_file_takes_the_place_of_its_lines(tmp_path, logs, monkeypatch):
    folders, client = logs
    live = write(folders["a"], "10-0.jsonl", 1, 2)
    copied(tmp_path)
    write(folders["a"], "10-0.jsonl", 3)
    seal(live)
    sealed = copied(tmp_path)
    assert (times(tmp_path), sealed.bytes) == ([1, 2, 3], (folders["a"] / "tiny/10-0.parquet").stat().st_size)
    assert sorted(path.name for path in (tmp_path / "here/tiny").glob("1*")) == ["10-0-aaaaaaaa.parquet"]
    assert copied(tmp_path).bytes == 0

    again = write(folders["a"], "20-0.jsonl", 4)
    ask = client.get

    def sealed_meanwhile(self, url, **options):
        if url.endswith("20-0.jsonl") and again.exists():
            seal(again)
        return ask(self, url, **options)

    monkeypatch.setattr(client, "get", sealed_meanwhile)
    assert (copied(tmp_path).faults, times(tmp_path)) == ({}, [1, 2, 3, 4])


def test_a_killed_copy_goes_on_where_the_last_whole_line_ends(tmp_path, logs, monkeypatch):
    folders, _ = logs
    live = write(folders["a"], "10-0.jsonl", *range(1, 50))
    monkeypatch.setattr("lepton_tasks.serving.http.log_files.PART", 100)  # bytes: many parts
    copied(tmp_path)
    copy = tmp_path / "here/tiny/10-0-aaaaaaaa.jsonl"
    assert copy.read_bytes() == live.read_bytes()
    os.truncate(copy, 310)
    (copy.parent / ".9-0-aaaaaaaa.parquet").write_bytes(b"PAR1 torn")
    assert len(times(tmp_path)) == 310 // (live.stat().st_size // 49)
    copied(tmp_path)
    assert (copy.read_bytes(), times(tmp_path)) == (live.read_bytes(), [*range(1, 50)])
    seal(live)
    copied(tmp_path)
    assert times(tmp_path) == [*range(1, 50)]


def test_bounds_take_the_oldest_which_are_not_copied_again(tmp_path, logs):
    folders, _ = logs
    for at in range(1, 6):
        write(folders["ab"[at % 2]], f"{at}-0.jsonl", at)
    assert copied(tmp_path).bytes
    assert times(tmp_path) == [1, 2, 3, 4, 5]
    assert copied(tmp_path, most_files=2).bytes == 0
    assert times(tmp_path) == [4, 5]
    assert copied(tmp_path, most_files=2).bytes == 0
    assert copied(tmp_path, most_bytes=60).bytes == 0


def test_who_does_not_answer_or_refuses_costs_no_other(tmp_path, logs):
    folders, client = logs
    write(folders["a"], "10-0.jsonl", 1)
    write(folders["b"], "11-0.jsonl", 2)
    client.away.add("b")
    found = copied(tmp_path)
    assert (times(tmp_path), found.faults) == ([1], {"http://b": "it does not answer: refused"})
    client.away.clear()
    assert (copied(tmp_path, seconds=-1).faults["http://b"], times(tmp_path)) == (
        "1 files are left for the next time.",
        [1],
    )
    assert "/requests/*" in copied(tmp_path, key="").faults["http://a"]
    assert (copied(tmp_path).faults, times(tmp_path)) == ({}, [1, 2])


def test_the_log_of_this_state_folder_is_not_copied_nor_copies_sealed_or_pruned(tmp_path, logs):
    folders, _ = logs
    write(folders["a"], "10-0.jsonl", 1)
    write(folders["b"], "11-0.jsonl", 2)
    assert copied(tmp_path, own=IDS["a"]).faults == {}
    assert times(tmp_path) == [2]
    assert gather(tmp_path / "c", "tiny", [SERVERS[1], SERVERS[1]], key="k").bytes == copied(tmp_path).bytes
    own = write(tmp_path / "here", "12-0.jsonl", 3)
    write(tmp_path / "here", "13-0.jsonl", 4)
    assert unsealed(tmp_path / "here", 0, 1) == [own, own.with_name("13-0.jsonl")]
    prune(own.parent, most_bytes=0, most_files=1)
    assert times(tmp_path) == [1, 2, 4]


def test_what_was_written_after_the_servers_were_asked_comes_with_the_next_time(tmp_path, logs, monkeypatch):
    folders, _ = logs
    now = time.time()
    write(folders["a"], "10-0.jsonl", now - 5, now + 5)
    copied(tmp_path)
    assert times(tmp_path) == [now - 5]
    monkeypatch.setattr(log_copies, "_FLUSH_SECONDS", -10)
    copied(tmp_path)
    assert times(tmp_path, since=now - 5) == [now + 5]


def test_the_last_file_of_a_server_that_is_no_more_is_not_read_again(tmp_path):
    path = tmp_path / "10-0-aaaaaaaa.jsonl"
    path.write_text("no JSON\n")
    os.utime(path, (1000, 1000))
    assert list(read_segments(tmp_path, 5000.0)) == []


@pytest.mark.parametrize(
    ("path", "status"),
    [("tiny/..%2Fx", 400), ("..%2Ftiny", 400), ("tiny/10-0-aa.jsonl", 400), ("tiny/10-0.jsonl", 404), ("tiny", 200)],
)
def test_nothing_but_files_of_the_log_is_read(tmp_path, path, status):
    with TestClient(app_of(tmp_path, "a"), headers={"authorization": "k"}) as client:
        assert client.get(f"/v1/requests/{path}").status_code in (status, 404)
        assert client.get(f"/v1/requests/{path}", headers={"authorization": ""}).status_code in (401, 404)


def test_the_log_asks_for_a_scope_of_its_own():
    assert model_of_path("/v1/requests/tiny/10-0.jsonl") == model_of_path("/v1/requests/tiny") == "/requests/tiny"
