import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_tasks.serving.app import STOP_SECONDS
from lepton_tasks.serving.server import _parser

UNIT = Path(__file__).parents[3] / "docker" / "systemd" / "lepton-serving.service"
TEXT = UNIT.read_text()


def value(key):
    (found,) = re.findall(rf"(?m)^{key}=(.*)$", TEXT.replace("\\\n", " "))
    return found


def test_the_server_knows_its_options_and_has_time_to_answer_what_it_took():
    words = shlex.split(value("ExecStart"))
    assert words[:4] == ["/opt/lepton/venv/bin/python", "-P", "-m", "lepton_tasks.serving"]
    assert words[-1] == "$OPTIONS"  # unbraced: split into words, and nothing if it is not set
    options = _parser().parse_args(words[4:-1])
    assert str(options.home).startswith("${STATE_DIRECTORY}/")
    credential, _, file = value("LoadCredential").partition(":")
    assert (str(options.keys), file) == (f"${{CREDENTIALS_DIRECTORY}}/{credential}", "/etc/lepton/keys.json")
    assert options.log_format == "json"
    assert int(value("TimeoutStopSec")) > 30 + STOP_SECONDS  # with --linger 30, the most that the guide tells
    assert (value("KillMode"), value("Restart")) == ("mixed", "on-failure")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_every_line_and_finds_it_contained(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(TEXT.replace("/opt/lepton/venv/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0  # 2.0 of 10, of exposure
