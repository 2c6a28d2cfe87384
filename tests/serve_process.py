"""`lepton serve` as a process."""

import os
import subprocess
import sys


def started(tmp_path, *arguments):
    (tmp_path / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "lepton_tasks.cli", "serve", *arguments]
    variables = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "LEPTON_HOME": str(tmp_path / "state")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)
