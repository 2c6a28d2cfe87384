import io

import numpy as np
import pytest
from films import film
from PIL import Image

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.video import Video


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    film(folder / "a.avi", 35)
    film(folder / "b.avi", 8, fps=4)
    (folder / "c.avi").write_bytes(b"no film at all")
    (folder / "notes.txt").write_text("x")
    return folder


def rows(source):
    return [row for table in source.read() for row in table.to_pylist()]


@pytest.mark.parametrize("encode", ["jpeg", "png"])
def test_one_frame_is_taken_from_each_second(films, encode):
    found = rows(Video("films", data_root=films.parent, encode=encode))
    assert [(row["sample_id"], row["frame"], row["time_s"]) for row in found if not row["fault"]] == [
        ("a.avi#0000000", 0, 0.0),
        ("a.avi#0000010", 10, 1.0),
        ("a.avi#0000020", 20, 2.0),
        ("a.avi#0000030", 30, 3.0),
        ("b.avi#0000000", 0, 0.0),
        ("b.avi#0000004", 4, 1.0),
    ]
    assert found[1]["uri"] == f"{films / 'a.avi'}#frame=10"
    for row in found[:4]:
        picture = np.asarray(Image.open(io.BytesIO(row["data"])))
        assert picture.shape == (48, 64, 3)
        assert np.abs(picture.astype(int) - 5 * row["frame"]).max() <= 6
    assert [(row["sample_id"], row["fault"], row["data"]) for row in found if row["fault"]] == [
        ("c.avi", "no frame of the video can be decoded", None)
    ]


@pytest.mark.parametrize(("rate", "frames"), [(2.5, [0, 4, 8]), (4, [0, 3, 5, 8]), (0.5, [0]), (100, list(range(10)))])
def test_the_rate_says_which_frames_are_taken(tmp_path, rate, frames):
    film(tmp_path / "a.avi", 10)
    source = Video("a.avi", data_root=tmp_path, frames_per_second=rate)
    assert [row["frame"] for row in rows(source)] == frames
    assert source.describe()["videos"] == ["a.avi"]


def test_what_moved_is_the_distance_from_the_frame_before(films):
    source = Video("films", data_root=films.parent, encode="png", differences=True)
    found = rows(source)
    assert [(row["sample_id"], row["time_s"]) for row in found if not row["fault"]] == [
        ("a.avi#0000010", 1.0),
        ("a.avi#0000020", 2.0),
        ("a.avi#0000030", 3.0),
        ("b.avi#0000004", 1.0),
    ]
    for row, moved in zip(found, (50, 50, 50, 20), strict=False):  # 5 per frame
        picture = np.asarray(Image.open(io.BytesIO(row["data"])))
        assert np.abs(picture.astype(int) - moved).max() <= 6
    assert [row["fault"] for row in found if row["fault"]] == ["no two frames of the video can be decoded"]


def test_the_state_tells_a_changed_film_and_nothing_else(films):
    source = Video("films", data_root=films.parent)
    before = source.state()
    (films / "notes.txt").write_text("other")
    assert source.state() == before
    film(films / "b.avi", 9, fps=4)
    assert source.state() != before


def test_a_folder_without_films_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no video here \(.avi, .mp4"):
        rows(Video(".", data_root=tmp_path))
    with pytest.raises(DataError, match="no folder"):
        rows(Video("gone", data_root=tmp_path))
