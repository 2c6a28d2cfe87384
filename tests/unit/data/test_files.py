import functools
import http.server
import os
import struct
import tarfile
import threading

import fsspec
import pytest
from packing import packed, zipped

from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.data.sources.sample_files import open_files

NAMES = ["cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg"]


CONTENTS = {"photos/SOURCE.txt": b"x", "photos/.hidden": b"h", "__MACOSX/photos/cat/._1.jpg": b"m"} | {
    f"photos/{name}": name.encode() for name in NAMES
}


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    for name in [*NAMES, ".hidden/3.jpg"]:
        system.pipe(f"/bucket/photos/{name}", name.encode())
    yield system
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("kind", ["folder", "photos.zip", "photos.tar", "photos.tar.gz", "photos.tgz", "remote"])
def test_the_same_files_are_found_wherever_they_lie(tmp_path, kind, memory):
    path = "folder"
    if kind == "folder":
        for name in NAMES:
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name).write_bytes(name.encode())
    elif kind == "remote":
        path = "memory://bucket/photos"
    else:
        packed(tmp_path / kind, CONTENTS)
        path = f"{kind}/photos"
    files = open_files(path, tmp_path)
    names = [name for name in files.names() if "/" in name]
    assert names == NAMES
    assert files.folders() == ["cat", "dog"]
    assert dict(files.read(NAMES[1:])) == {name: name.encode() for name in NAMES[1:]}
    assert files.local == (kind == "folder")
    assert files.state() == files.state()
    if kind not in ("folder", "photos.tgz"):  # fsspec takes no .tgz for a tar archive
        with fsspec.open(files.uri("cat/1.jpg")) as stream:
            assert stream.read() == b"cat/1.jpg"


def test_the_state_of_an_archive_changes_with_it(tmp_path):
    path = zipped(tmp_path / "a.zip", {"cat/1.jpg": b"1"})
    before = open_files("a.zip", tmp_path).state()
    os.utime(path, ns=(1, 1))
    assert open_files("a.zip", tmp_path).state() != before


def test_the_state_of_a_remote_folder_changes_with_a_file(tmp_path, memory):
    before = open_files("memory://bucket/photos", tmp_path).state()
    memory.pipe("/bucket/photos/cat/1.jpg", b"longer than before")
    assert open_files("memory://bucket/photos", tmp_path).state() != before


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:/evil.jpg", "..\\evil.jpg"])
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path, kind, name):
    path = packed(tmp_path / kind, {"cat/1.jpg": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"leads out of the archive") as error:
        open_files(kind, tmp_path).names()
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, kind):
    packed(tmp_path / kind, {"cat/1.jpg": b"1", "cat/zeros.jpg": bytes(80 << 20)})
    assert (tmp_path / kind).stat().st_size < 1 << 20
    files = open_files(kind, tmp_path)
    for act in (files.names, lambda: list(files.read(["cat/1.jpg"]))):
        with pytest.raises(DataError, match=r"zeros.jpg expands it from .* may be a zip bomb.*unpack it by hand"):
            act()


def test_a_zip_that_holds_more_than_it_declares_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"cat/1.jpg": bytes(5_000)})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + offset, 10)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip: the archive cannot be read: Bad CRC-32 for file 'cat/1.jpg'"):
        list(open_files("a.zip", tmp_path).read(["cat/1.jpg"]))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz", "a.tar"])
def test_an_archive_cut_short_is_refused_by_name(tmp_path, kind):
    path = packed(tmp_path / kind, {f"cat/{i}.jpg": os.urandom(2_000) for i in range(20)})
    path.write_bytes(path.read_bytes()[:19_111])
    files = open_files(kind, tmp_path)
    with pytest.raises(DataError, match=f"{kind}: the archive cannot be read.*Fetch it again"):
        list(files.read(files.names()))


def test_an_encrypted_zip_says_so(tmp_path):
    path = zipped(tmp_path / "a.zip", {"cat/1.jpg": b"1"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is encrypted, password required"):
        list(open_files("a.zip", tmp_path).read(["cat/1.jpg"]))


def test_a_file_without_a_name_does_not_break_the_listing(tmp_path):
    zipped(tmp_path / "a.zip", {"cat/1.jpg": b"1", ".": b"2"})
    assert open_files("a.zip", tmp_path).names() == ["cat/1.jpg", "."]


def test_a_name_that_an_archive_holds_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("cat/1.jpg"))
    with pytest.raises(DataError, match=r"holds cat/1.jpg twice"):
        open_files("a.tar", tmp_path).names()


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("cat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    files = open_files("a.tar", tmp_path)
    assert list(files.read(files.names())) == [("cat/link.jpg", None)]


@pytest.fixture
def web(tmp_path):
    (tmp_path / "www").mkdir()
    zipped(tmp_path / "www" / "photos.zip", CONTENTS)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_an_archive_on_the_web_is_read_without_unpacking_it(tmp_path, web):
    files = open_files(f"{web}/photos.zip/photos", tmp_path)
    assert dict(files.read(["dog/1.jpg"])) == {"dog/1.jpg": b"dog/1.jpg"}
    assert files.state() == files.state()


def test_what_is_not_there_or_does_not_answer_names_its_address(tmp_path, web):
    with pytest.raises(DataError, match=rf"{web}/gone.zip: there is nothing here"):
        open_files(f"{web}/gone.zip", tmp_path).state()
    with pytest.raises(UnavailableError, match=r"127.0.0.1:9/a.zip: cannot be reached"):
        open_files("http://127.0.0.1:9/a.zip", tmp_path).state()
    with pytest.raises(DataError, match="unsupported kind of address"):
        open_files("gopher://host/photos", tmp_path)
    with pytest.raises(DataError, match=r"no\.zip: there is nothing here"):
        open_files("no.zip", tmp_path).names()
