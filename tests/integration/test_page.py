import shutil
import subprocess

import pytest
from serving_process import serving
from tiny_packages import TABLE, make_package, make_sums

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="a browser is needed: Chromium or Chrome")
def test_a_browser_shows_forms_and_draws_the_answers_to_the_examples(tmp_path):
    example = (b'{"a": 1.5, "code": "007"}', {"value": 3.5})
    made = {
        "tiny": make_package(tmp_path / "tiny"),
        "sums": make_sums(tmp_path / "sums", "tabular", TABLE, shape=[2], example=example),
    }
    with serving(tmp_path / "home") as server:
        for name, digest in made.items():
            assert server.deploy(name, tmp_path / name, "7", digest).status_code == 200

        def shown(anchor):
            """The page once its scripts have run, and what the browser complained of."""
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
            options += ["--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom"]
            ran = subprocess.run([CHROMIUM, *options, f"{server.url}/docs#{anchor}"], capture_output=True, timeout=60)
            complaints = [line for line in ran.stderr.decode().splitlines() if "CONSOLE" in line]
            return ran.stdout.decode(), complaints

        page, complaints = shown("tiny/example")
        assert complaints == []
        assert '<p class="big">light' not in page  # 200 of 510 is dark
        assert '<p class="big">dark</p>' in page
        assert "60.8 %" in page
        assert "version 7" in page
        assert 'alt="Selected image"' in page
        assert "Video, frame by frame" in page
        assert '<option value="light">light</option>' in page  # what was right, if the answer was not
        page, complaints = shown("sums/example")
        assert complaints == []
        assert '<span class="big">3.5</span>' in page
        assert 'id="sums-a"' in page
        assert '<option value="007">007</option>' in page
        assert "client.predict" in page
        assert "<code>version</code>" in page  # the backquotes of a description
