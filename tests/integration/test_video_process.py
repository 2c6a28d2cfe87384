import time

import psutil
from films import film
from serving_process import serving
from tiny_packages import make_package

AVI = {"content-type": "video/x-msvideo"}


def test_the_decoder_ends_with_its_client_and_others_are_served_meanwhile(tmp_path):
    long = film(tmp_path / "long.avi", 6000, fps=100, step=0)
    digest = make_package(tmp_path / "tiny")
    with serving(tmp_path / "home") as server:
        assert server.deploy("tiny", tmp_path / "tiny", "7", digest).status_code == 200
        process = psutil.Process(server.process.pid)
        for _ in range(3):  # more than there are places: each is given back
            with server.http.stream(
                "POST", "/v1/models/tiny/video", params={"fps": 100}, content=long, headers=AVI
            ) as reply:
                lines = reply.iter_lines()
                assert next(lines) == "event: frame"
                assert len(process.children()) == 1
                assert server.http.get("/v2/health/ready").status_code == 200
            gone = time.monotonic()
            while process.children():
                assert time.monotonic() - gone < 2
                time.sleep(0.02)
        assert list((tmp_path / "home").glob("tmp*")) == []


def test_two_videos_at_a_time_and_no_third(tmp_path):
    long = film(tmp_path / "long.avi", 6000, fps=100, step=0)
    digest = make_package(tmp_path / "tiny")
    with serving(tmp_path / "home") as server:
        assert server.deploy("tiny", tmp_path / "tiny", "7", digest).status_code == 200
        asked = {"params": {"fps": 100}, "content": long, "headers": AVI}
        with (
            server.http.stream("POST", "/v1/models/tiny/video", **asked) as one,
            server.http.stream("POST", "/v1/models/tiny/video", **asked) as two,
        ):
            assert {next(one.iter_lines()), next(two.iter_lines())} == {"event: frame"}
            third = server.http.post("/v1/models/tiny/video", **asked)
            assert (third.status_code, "retry-after" in third.headers) == (503, True)
