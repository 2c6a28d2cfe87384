import hashlib
import http.server
import io
import os
import threading
import zipfile

import pytest

from lepton_tasks.core.catalogue import SOURCES, TABLE_SOURCES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.data.sources import download, public
from lepton_tasks.data.sources.download import PublicFile, fetched

DATA = os.urandom(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Publisher(http.server.BaseHTTPRequestHandler):
    """Serves `files`; `cuts` gives the byte counts after which to drop the connection."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        start = 0
        asked = self.headers.get("Range")
        if server.ranges and asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if server.cuts:
            rest = rest[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("LEPTON_MIRROR", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher) as server:
        server.files, server.cuts, server.asked, server.ranges = {"/set/a.bin": DATA}, [], [], True
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_fetched_once_checked_and_told(publisher, tmp_path):
    told = []
    file = PublicFile(f"{publisher.address}/set/a.bin", DIGEST)
    [path] = fetched([file], tmp_path / "set", meter=lambda total, unit: lambda done: told.append((done, total, unit)))
    assert path.read_bytes() == DATA
    assert told[-1] == (len(DATA) >> 10, len(DATA) >> 10, "kB")
    assert fetched([file], tmp_path / "set") == [path]
    assert publisher.asked == [("/set/a.bin", None)]
    assert left(tmp_path / "set") == ["a.bin"]


def test_a_cut_connection_is_taken_up_where_it_broke(publisher, tmp_path):
    publisher.cuts = [100_000, 0, 50_000]
    assert fetched([PublicFile(f"{publisher.address}/set/a.bin", DIGEST)], tmp_path)[0].read_bytes() == DATA
    assert [asked for _, asked in publisher.asked] == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_what_a_killed_run_has_left_is_taken_up(publisher, tmp_path):
    publisher.cuts = [120_000] + [0] * 10
    file = PublicFile(f"{publisher.address}/set/a.bin", DIGEST)
    with pytest.raises(UnavailableError):
        fetched([file], tmp_path)
    assert left(tmp_path) == [".a.bin.part", ".a.bin.tag"]
    publisher.cuts, publisher.asked = [], []
    assert fetched([file], tmp_path)[0].read_bytes() == DATA
    assert publisher.asked == [("/set/a.bin", "bytes=120000-")]


@pytest.mark.parametrize("change", ["another file", "no ranges"])
def test_a_rest_that_does_not_belong_to_the_beginning_starts_anew(publisher, tmp_path, change):
    publisher.cuts = [100_000] + [0] * 10
    file = PublicFile(f"{publisher.address}/set/a.bin", None)
    with pytest.raises(UnavailableError):
        fetched([file], tmp_path)
    publisher.cuts, new = [], DATA
    if change == "another file":
        publisher.files["/set/a.bin"] = new = os.urandom(200_000)
    else:
        publisher.ranges = False
    assert fetched([file], tmp_path)[0].read_bytes() == new


def test_another_file_than_promised_is_not_kept(publisher, tmp_path):
    with pytest.raises(
        DataError, match=rf"/set/a.bin: sent .* {DIGEST} instead of {'0' * 64}; .*Put a.bin .* into {tmp_path}"
    ):
        fetched([PublicFile(f"{publisher.address}/set/a.bin", "0" * 64)], tmp_path)
    assert left(tmp_path) == [".a.bin.tag"]


def test_another_file_put_there_by_hand_is_told(publisher, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(
        DataError, match=rf"{tmp_path}/a.bin: is not the file of http://.* and not {DIGEST}\. Remove it"
    ):
        fetched([PublicFile(f"{publisher.address}/set/a.bin", DIGEST)], tmp_path)


def test_a_mirror_is_asked_instead(publisher, tmp_path, monkeypatch):
    publisher.files = {"/mirror/set/a.bin": DATA}
    file = PublicFile("http://127.0.0.1:9/far/a.bin?x=1", DIGEST)
    assert fetched([file], tmp_path / "one" / "set", mirror=f"{publisher.address}/mirror/")[0].read_bytes() == DATA
    monkeypatch.setenv("LEPTON_MIRROR", f"{publisher.address}/mirror")
    assert fetched([file], tmp_path / "two" / "set")[0].read_bytes() == DATA


@pytest.mark.parametrize("fault", ["offline", "gone"])
def test_offline_one_sentence_names_all_that_is_missing_and_the_folder(publisher, tmp_path, fault):
    server = "http://127.0.0.1:9" if fault == "offline" else f"{publisher.address}/gone"
    (tmp_path / "b.bin").write_bytes(DATA)
    wanted = {"a.bin": "a" * 64, "b.bin": DIGEST, "c.bin": None}
    with pytest.raises(UnavailableError) as error:
        fetched([PublicFile(f"{server}/{name}", sha256) for name, sha256 in wanted.items()], tmp_path)
    message = str(error.value)
    assert message.startswith(f"{server}/a.bin: ")
    assert ("ConnectError" if fault == "offline" else "answers 404 Not Found") in message
    assert message.endswith(
        f"Put a.bin (sha256 {'a' * 64}) and c.bin (sha256 not known: it may change) into {tmp_path} by hand, "
        "or set LEPTON_MIRROR to a server that has what is missing."
    )


def zipped(contents):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return stream.getvalue()


def read(source):
    return [row for piece in source.pieces() for rows, _ in piece.read() for row in rows.iter_rows()]


def test_news_is_fetched_and_its_subjects_named(publisher, tmp_path, monkeypatch):
    files = {"train.csv": b'"3","Oil","Up ""again"""\n"4","Chip","Small"\n', "test.csv": b'"1","Vote","Now"\n'}
    publisher.files = {f"/ag-news/{name}": data for name, data in files.items()}
    digests = [hashlib.sha256(data).hexdigest() for data in files.values()]
    named = [PublicFile(f"http://127.0.0.1:9/{name}", sha) for name, sha in zip(files, digests, strict=True)]
    monkeypatch.setattr(public.AgNews, "public", tuple(named))
    source = TABLE_SOURCES.build("ag_news", {"mirror": publisher.address}, data_root=tmp_path)
    before = source.state()
    assert publisher.asked == []  # listing the files downloads nothing
    source.fetch(RunContext.local(tmp_path / "state"))
    assert source.state() == before
    assert list(source.schema()) == ["label", "title", "text"]
    assert sorted(read(source)) == [
        ("Business", "Oil", 'Up "again"'),
        ("Sci/Tech", "Chip", "Small"),
        ("World", "Vote", "Now"),
    ]


def test_ratings_are_fetched_or_taken_from_where_they_were_put(publisher, tmp_path):
    ratings = b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"
    publisher.files = {"/movielens-latest-small/ml-latest-small.zip": zipped({"ml-latest-small/ratings.csv": ratings})}
    params = {"mirror": publisher.address}
    source = TABLE_SOURCES.build("movielens", params, data_root=tmp_path)
    source.fetch(RunContext.local(tmp_path / "state"))
    assert read(source) == [(1, 31, 2.5, 1260759144)]
    assert source.describe()["address"] == "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
    publisher.files = {}
    (tmp_path / "hand" / "movielens-latest-small").mkdir(parents=True)
    (tmp_path / "hand" / "movielens-latest-small" / "ratings.csv").write_bytes(ratings * 1 + b"2,5,1,5\n")
    source = TABLE_SOURCES.build("movielens", params, data_root=tmp_path / "hand")
    source.fetch(RunContext.local(tmp_path / "state"))
    assert len(read(source)) == 2


def test_films_are_told_beside_their_ratings(publisher, tmp_path):
    files = {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,31,2.5,9\n1,7,4.0,8\n",
        "movies.csv": b'movieId,title,genres\n31,"Sun, The (1999)",Drama|War\n32,Moon,War\n',
    }
    archive = zipped({f"ml-latest-small/{name}": content for name, content in files.items()})
    publisher.files = {"/movielens-latest-small/ml-latest-small.zip": archive}
    expected = [(1, 31, 2.5, 9, "Sun, The (1999)", "Drama|War"), (1, 7, 4.0, 8, None, None)]
    params = {"mirror": publisher.address, "films": True}
    source = TABLE_SOURCES.build("movielens", params, data_root=tmp_path)
    source.fetch(RunContext.local(tmp_path / "state"))
    assert read(source) == expected
    assert list(source.schema())[-2:] == ["title", "genres"]
    folder = tmp_path / "hand" / "movielens-latest-small"
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_bytes(files["ratings.csv"])
    with pytest.raises(DataError, match=r"movies\.csv"):
        TABLE_SOURCES.build("movielens", params, data_root=tmp_path / "hand").pieces()
    (folder / "movies.csv").write_bytes(files["movies.csv"])
    source = TABLE_SOURCES.build("movielens", params, data_root=tmp_path / "hand")
    before = source.state()
    assert read(source) == expected
    (folder / "movies.csv").write_bytes(files["movies.csv"] + b"33,Rain,War\n")
    assert TABLE_SOURCES.build("movielens", params, data_root=tmp_path / "hand").state() != before


def test_photos_are_fetched_and_read_in_their_archive(publisher, tmp_path, monkeypatch):
    archive = zipped({"PetImages/Cat/0.jpg": b"c", "PetImages/Dog/0.jpg": b"d", "readme.txt": b"x"})
    name = public.DogsAndCats.public.name
    publisher.files = {f"/dogs-and-cats/{name}": archive}
    monkeypatch.setattr(
        public.DogsAndCats, "public", PublicFile(public.DogsAndCats.public.address, hashlib.sha256(archive).hexdigest())
    )
    source = SOURCES.build("dogs_and_cats", {"mirror": publisher.address}, data_root=tmp_path)
    before = source.state()
    source.fetch(RunContext.local(tmp_path / "state"))
    rows = [row for table in source.read() for row in table.to_pylist()]
    assert [(row["label"], row["data"]) for row in rows] == [("Cat", b"c"), ("Dog", b"d")]
    assert source.state() == before
    assert source.describe()["classes"] == {"Cat": 1, "Dog": 1}


def test_without_photos_the_address_and_the_variable_are_named(tmp_path):
    source = SOURCES.build("dogs_and_cats", {"mirror": "http://127.0.0.1:9"}, data_root=tmp_path)
    with pytest.raises(UnavailableError, match=r"kagglecatsanddogs_5340.zip .* in Python by LEPTON_DOGS_AND_CATS"):
        source.fetch(RunContext.local(tmp_path))
