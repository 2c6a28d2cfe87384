import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.coco import Coco
from lepton_tasks.data.sources.voc import Voc


def rows(source):
    return {row["sample_id"]: row for table in source.read() for row in table.to_pylist()}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)


def voc_xml(*objects):
    marks = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><filename>other.jpg</filename>{marks}</annotation>"


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "cells"
    for name in ("a", "b", "plain", "broken"):
        picture(folder / "JPEGImages" / f"{name}.png")
    marks = folder / "Annotations"
    marks.mkdir()
    (marks / "a.xml").write_text(voc_xml(("red", (1, 1, 40, 20)), ("white", (5, 6.5, 9, 8))))
    (marks / "b.xml").write_text(voc_xml())
    (marks / "broken.xml").write_text(voc_xml(("red", (1, "x", 2, 3))))
    (marks / "lost.xml").write_text(voc_xml(("red", (1, 1, 2, 3))))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_voc_boxes_belong_to_their_picture_and_every_file_is_accounted_for(voc, tmp_path, packed):
    path = "cells"
    if packed:
        path = "cells.zip/cells"
        with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
            for file in sorted(voc.rglob("*.*")):
                archive.write(file, file.relative_to(tmp_path))
    source = Voc(path, data_root=tmp_path)
    found = rows(source)
    assert found["JPEGImages/a.png"]["boxes"] == [
        {"label": "red", "xmin": 0, "ymin": 0, "xmax": 40, "ymax": 20},
        {"label": "white", "xmin": 4, "ymin": 5.5, "xmax": 9, "ymax": 8},
    ]
    assert found["JPEGImages/b.png"]["boxes"] == []
    assert found["JPEGImages/plain.png"]["boxes"] is None
    assert {name: row["fault"] for name, row in found.items() if row["fault"]} == {
        "JPEGImages/broken.png": "the annotation cannot be read: could not convert string to float: 'x'",
        "Annotations/lost.xml": "no picture of this name in JPEGImages",
    }
    assert all(row["label"] is None for row in found.values())
    assert (found["JPEGImages/a.png"]["data"] is not None) == packed
    assert source.describe() == {"folder": source.describe()["folder"], "pictures": 4, "annotations": 4}
    assert source.state() == Voc(path, data_root=tmp_path).state()


def test_pictures_of_one_name_in_two_folders_have_their_own_boxes(voc, tmp_path):
    for folder, label in (("one", "red"), ("two", "white")):
        picture(voc / "JPEGImages" / folder / "a.png")
        (voc / "Annotations" / folder).mkdir()
        (voc / "Annotations" / folder / "a.xml").write_text(voc_xml((label, (1, 1, 9, 9))))
    found = rows(Voc("cells", data_root=tmp_path))
    labels = {
        folder: [box["label"] for box in found[f"JPEGImages/{folder}a.png"]["boxes"]] for folder in ("one/", "two/", "")
    }
    assert labels == {"one/": ["red"], "two/": ["white"], "": ["red", "white"]}


@pytest.mark.parametrize(
    ("xml", "fault"),
    [
        ("<annotation><object>", "no element found"),
        ("<annotation><object><name>x</name></object></annotation>", "xmin"),
    ],
)
def test_a_broken_annotation_is_told_beside_its_picture(voc, tmp_path, xml, fault):
    (voc / "Annotations" / "a.xml").write_text(xml)
    assert fault in rows(Voc("cells", data_root=tmp_path))["JPEGImages/a.png"]["fault"]


def test_a_missing_folder_of_annotations_is_named(voc, tmp_path):
    with pytest.raises(DataError, match=r"no files in the folder 'labels'.*data.source.params"):
        rows(Voc("cells", data_root=tmp_path, annotations="labels"))


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}, {"id": 9, "file_name": "gone.png"}],
    "categories": [{"id": 3, "name": "red"}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "bbox": [4, 5.5, 10, 2]},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1, "segmentation": {}},
        {"image_id": 9, "bbox": [1, 1, 2, 2]},
    ],
}


@pytest.fixture
def coco(tmp_path):
    for name in ("a", "b", "unlisted"):
        picture(tmp_path / "cells" / "val" / f"{name}.png")

    def write(content):
        (tmp_path / "cells" / "val.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return Coco("cells", data_root=tmp_path, annotations="val.json", images="val")

    return write


def test_coco_boxes_belong_to_their_picture_and_crowds_are_counted(coco):
    source = coco(COCO)
    found = rows(source)
    assert found["val/a.png"]["boxes"] == [{"label": "red", "xmin": 4, "ymin": 5.5, "xmax": 14, "ymax": 7.5}]
    assert found["val/b.png"]["boxes"] == []
    assert found["val/gone.png"]["boxes"] == [{"label": None, "xmin": 1, "ymin": 1, "xmax": 3, "ymax": 3}]
    assert list(found) == ["val/a.png", "val/b.png", "val/gone.png"]
    described = source.describe()
    assert (described["pictures"], described["boxes"], described["crowds_left_out"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "JSONDecodeError"),
        ([], "TypeError"),
        ({"images": []}, "KeyError: 'annotations'"),
        (COCO | {"images": COCO["images"][:2]}, "KeyError: 9"),
        (COCO | {"annotations": [{"image_id": 7, "bbox": [1, 2]}]}, "not enough values"),
        (COCO | {"annotations": [{"image_id": 7, "bbox": None}]}, "TypeError"),
    ],
)
def test_what_is_no_coco_file_is_refused_by_name(coco, content, reason):
    with pytest.raises(DataError, match=rf"cells/val.json: not a COCO file of objects: .*{reason}.*bbox"):
        rows(coco(content))


def test_a_missing_coco_file_is_named(coco, tmp_path):
    coco(COCO)
    with pytest.raises(DataError, match=r"cells/no.json: no such file"):
        rows(Coco("cells", data_root=tmp_path, annotations="no.json", images="val"))


def test_the_picture_s_bytes_are_read_where_they_lie(coco):
    row = rows(coco(COCO))["val/a.png"]
    assert row["data"] is None
    with open(row["uri"], "rb") as stream:  # noqa: PTH123  # a path, as a worker opens it
        assert Image.open(io.BytesIO(stream.read())).size == (40, 20)
