import json
import os
import subprocess
import sys

import cv2
import pytest
from films import film, frame_of
from starlette.testclient import TestClient
from tiny_packages import TABLE, make_package, make_sums

from lepton_tasks.codecs.frames import frames_of
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.errors import NotAllowedError
from lepton_tasks.serving.http import video as video_module
from lepton_tasks.serving.http.video_input import Sources, VideoLimits

VIDEO = "/v1/models/tiny/video"
AVI = {"content-type": "video/x-msvideo"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def client(home):
    folder = home / "films"
    folder.mkdir()
    film(folder / "a.avi", 25)
    made = {"tiny": make_package(home / "tiny"), "sums": make_sums(home / "sums", "tabular", TABLE, shape=[2])}
    patch = pytest.MonkeyPatch()
    patch.setenv("LEPTON_VIDEO_SOURCES", f"{folder}, http://127.0.0.1:9/cameras/")
    patch.setattr(video_module, "VideoLimits", lambda: VideoLimits(body_bytes=200_000))
    with TestClient(create_app(home)) as client:
        patch.undo()
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        for name, digest in made.items():
            body = {"package": str(home / name), "version": "7", "digest": digest}
            assert client.post(f"/admin/models/{name}", json=body, headers=headers).status_code == 200
        yield client


def events(reply):
    """Kind and data of each event."""
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in reply.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_each_frame_is_answered_as_its_picture_is(client, home):
    path = home / "films" / "a.avi"
    *frames, (last, summary) = events(client.post(f"{VIDEO}?fps=5", content=path.read_bytes(), headers=AVI))
    assert [(kind, told["frame"], told["time_s"]) for kind, told in frames] == [
        ("frame", number, number / 10) for number in range(0, 25, 2)
    ]
    for _, told in frames[::4]:
        reply = client.post(
            "/v1/models/tiny/predict", content=frame_of(path, told["frame"]), headers={"content-type": "image/png"}
        )
        assert told["answer"] == reply.json()["predictions"][0]
        assert told["version"] == "7"
    assert (last, summary.pop("seconds") > 0) == ("summary", True)
    assert summary == {"model": "tiny", "frames": 13, "answered": 13, "refused": 0, "cut": False}


def test_what_moved_is_answered_where_the_model_learned_from_that(client, home):
    path = home / "films" / "a.avi"
    asked = f"{VIDEO}?fps=5&differences=true"
    *frames, (_, summary) = events(client.post(asked, content=path.read_bytes(), headers=AVI))
    assert [told["frame"] for _, told in frames] == list(range(2, 25, 2))
    assert summary["frames"] == 12
    moved = next(frame for frame in frames_of(str(path), 5, differences=True) if frame.number == 4)
    picture = cv2.imencode(".png", moved.pixels)[1].tobytes()
    reply = client.post("/v1/models/tiny/predict", content=picture, headers={"content-type": "image/png"})
    assert frames[1][1]["answer"] == reply.json()["predictions"][0]


def test_the_operators_list_says_what_the_server_opens(client, home):
    reply = client.post(VIDEO, params={"source": str(home / "films" / "a.avi"), "fps": 1})
    assert [told.get("frame") for _, told in events(reply)] == [0, 10, 20, None]
    for source in ("/etc/passwd", str(home / "films" / ".." / "admin.token"), "http://127.0.0.1:9/other/a.mp4"):
        reply = client.post(VIDEO, params={"source": source})
        assert (reply.status_code, "LEPTON_VIDEO_SOURCES" in reply.json()["error"]) == (403, True)


def test_sources(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "b.mp4")
    sources = Sources(f"{tmp_path / 'in'},rtsp://camera/one,https://host/films/")
    assert sources.checked(str(tmp_path / "in" / "a.mp4")) == str(tmp_path / "in" / "a.mp4")
    assert sources.checked("rtsp://camera/one") == "rtsp://camera/one"
    assert sources.checked("https://host/films/a.mp4") == "https://host/films/a.mp4"
    for wrong in ("in/link.mp4", "in/none.mp4", "in", "b.mp4"):
        with pytest.raises(NotAllowedError):
            sources.checked(str(tmp_path / wrong))
    for wrong in (
        "rtsp://camera/one/two",
        "https://host/films/../x",
        "https://host",
        "file:///etc/passwd",
        "https://host/films",
    ):
        with pytest.raises(NotAllowedError):
            sources.checked(wrong)
    with pytest.raises(NotAllowedError):
        Sources("").checked(str(tmp_path / "b.mp4"))


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"no film at all", "headers": AVI}, 400, "no frame of the video can be decoded"),
        ({"content": b"", "headers": AVI}, 400, "empty"),
        ({"content": b"x" * 200_001, "headers": AVI}, 413, "larger than 200,000 bytes"),
        ({"files": {"file": ("a.avi", b"x")}}, 415, "--data-binary"),
        ({"content": b"x", "headers": AVI, "params": {"fps": 0}}, 400, "fps"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "is not video"),
    ],
)
def test_what_is_no_video_gets_a_reason(client, request_, status, reason):
    for _ in range(3):  # places are given back
        reply = client.post(VIDEO, **request_)
        assert (reply.status_code, reason in reply.json()["error"]) == (status, True)


def test_a_playlist_opens_nothing(tmp_path):
    """FFmpeg reads the files that one names: it does for a list that is not an upload."""
    film(tmp_path / "secret.avi", 3)
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile secret.avi\n")
    command = [sys.executable, "-m", "lepton_tasks.serving.http.frames", str(tmp_path / "list.avi")]
    command += ["--fps=1", "--most=9", "--pixels=9999"]
    opened = subprocess.run(command, capture_output=True)
    assert b'"frame": 0' in opened.stdout
    uploaded = subprocess.run([*command, "--uploaded"], capture_output=True)
    assert uploaded.stdout == b'{"error": "no frame of the video can be decoded."}\n'


def test_models_of_other_things_take_no_video(client):
    reply = client.post("/v1/models/sums/video", content=b"x", headers=AVI)
    assert (reply.status_code, "does not accept images" in reply.json()["error"]) == (415, True)
    assert client.post("/v1/models/tony/video", content=b"x", headers=AVI).status_code == 404


def test_without_a_decoder_the_server_says_what_to_install(client, home, monkeypatch):
    (home / "without").mkdir()
    (home / "without" / "cv2.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(home / "without"), os.environ.get("PYTHONPATH", "")]))
    reply = client.post(VIDEO, content=b"x", headers=AVI)
    assert (reply.status_code, "opencv-python-headless" in reply.json()["error"]) == (501, True)
