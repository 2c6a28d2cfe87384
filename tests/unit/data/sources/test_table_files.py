import functools
import gzip
import http.server
import io
import pickle
import threading

import fsspec
import polars as pl
import pytest
from packing import packed

from lepton_tasks.core.errors import ConfigError, DataError, UnavailableError
from lepton_tasks.data.sources.csv import Csv
from lepton_tasks.data.sources.files import find_files
from lepton_tasks.data.sources.parquet import Parquet

CSV = {"days/a.csv": b"n\n1\n2\n", "days/more/b.csv": b"n\n3\n", "days/notes.txt": b"-", "days/_tmp.csv": b"x\n"}


def numbers(path, folder):
    pieces = pickle.loads(pickle.dumps(Csv(path, folder).pieces()))
    return [n for piece in pieces for rows, _ in piece.read() for n in rows["n"]]


@pytest.fixture
def places(tmp_path):
    """The same files in a folder, in archives and at a URL."""
    memory = fsspec.filesystem("memory")
    for name, data in CSV.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
        memory.pipe(f"/bucket/{name}", data)
    for kind in ("a.zip", "a.tar", "a.tar.gz"):
        packed(tmp_path / kind, CSV)
    memory.pipe("/bucket/a.zip", (tmp_path / "a.zip").read_bytes())
    yield tmp_path
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("place", ["folder", "a.zip", "a.tar", "a.tar.gz", "memory://bucket", "memory://bucket/a.zip"])
def test_the_same_rows_are_read_wherever_the_files_lie(places, place):
    assert numbers(f"{place}/days", places) == [1, 2, 3]
    assert numbers(f"{place}/days/*.csv", places) == [1, 2]
    assert numbers(f"{place}/days/**/*.csv", places) == [1, 2, 3]
    assert numbers(f"{place}/days/more/b.csv", places) == [3]
    assert Csv(f"{place}/days", places).state() == Csv(f"{place}/days", places).state()


@pytest.mark.parametrize("path", ["links", "links/*.csv"])
def test_links_to_files_are_followed_and_change_when_the_files_do(places, path):
    (places / "links").mkdir()
    (places / "links" / "a.csv").symlink_to(places / "folder" / "days" / "a.csv")
    (places / "links" / "folder.csv").symlink_to(places / "folder")
    assert numbers(path, places) == [1, 2]
    before = Csv(path, places).state()
    (places / "folder" / "days" / "a.csv").write_bytes(b"n\n1\n2\n3\n")
    assert Csv(path, places).state() != before
    (places / "links" / "b.csv").symlink_to(places / "gone.csv")
    with pytest.raises(DataError, match=r"links/b\.csv"):
        Csv(path, places).schema()


def test_parquet_is_read_in_an_archive_and_behind_an_address(places):
    stream = io.BytesIO()
    pl.DataFrame({"n": [1, 2]}).write_parquet(stream)
    packed(places / "p.zip", {"p.parquet": stream.getvalue()})
    fsspec.filesystem("memory").pipe("/bucket/p.parquet", stream.getvalue())
    for path in ("p.zip", "memory://bucket/p.parquet"):
        (piece,) = Parquet(path, places).pieces()
        assert piece.parquet is None
        assert [n for rows, _ in piece.read() for n in rows["n"]] == [1, 2]


@pytest.mark.parametrize("path", ["nothing", "nothing/*.csv", "no.zip/days", "folder/nothing.csv", "a.zip/nothing"])
def test_what_is_not_there_is_named_with_the_way_out(places, path):
    with pytest.raises(DataError) as error:
        Csv(path, places).schema()
    message = str(error.value)
    assert message.startswith(f"{places}/{path}: no such file")
    assert f"the folder in LEPTON_DATA, now {places}" in message


@pytest.mark.parametrize("kind", ["b.zip", "b.tar"])
def test_a_path_that_leads_out_of_its_archive_is_refused(tmp_path, kind):
    packed(tmp_path / kind, {"a.csv": b"n\n1\n", "../../evil.csv": b"n\n2\n"})
    with pytest.raises(DataError, match=rf"/{kind}: holds '../../evil.csv', which leads out of the archive"):
        Csv(kind, tmp_path).schema()


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    zeros = b"n\n" + (b"0" * 1_023 + b"\n") * (80 << 10)
    packed(tmp_path / "b.zip", {"a.csv": zeros})
    with pytest.raises(DataError, match=r"/b.zip: a.csv expands it from .* may be a zip bomb"):
        Csv("b.zip", tmp_path).schema()
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(zeros, 1))
    (piece,) = Csv("b.csv.gz", tmp_path).pieces()
    batches = []
    with pytest.raises(DataError, match=r"/b.csv.gz: unpacks to more than 67,108,864 bytes. It may be a zip bomb"):
        batches.extend(piece.read())
    assert sum(len(rows) for rows, _ in batches) <= 64 << 10


def test_an_address_with_a_password_is_refused_without_repeating_it(tmp_path):
    with pytest.raises(ConfigError) as error:
        find_files("https://me:secret@host/a.csv", tmp_path, (".csv",))
    assert "secret" not in str(error.value)
    assert "https://host/a.csv" in str(error.value)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def web(places):
    handler = functools.partial(Handler, directory=str(places))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_files_on_the_web(places, web):
    assert numbers(f"{web}/folder/days/a.csv", places) == [1, 2]
    assert numbers(f"{web}/a.zip/days", places) == [1, 2, 3]
    assert Csv(f"{web}/folder/days/a.csv?key=secret", places).pieces()[0].origin == f"{web}/folder/days/a.csv"
    with pytest.raises(DataError, match=rf"{web}/gone.csv: no such file"):
        Csv(f"{web}/gone.csv", places).schema()
    with pytest.raises((DataError, UnavailableError), match=r"127.0.0.1:9/a.csv"):
        Csv("http://127.0.0.1:9/a.csv", places).schema()
