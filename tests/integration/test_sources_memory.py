import subprocess
import sys

import pytest

_READ = """
import resource, sys
from pathlib import Path
from lepton_tasks.data.sources.csv import Csv
from lepton_tasks.data.sources.json_lines import JsonLines
source = {"csv": Csv, "jsonl": JsonLines}[sys.argv[1].rpartition(".")[2]](sys.argv[1], Path(sys.argv[2]))
(piece,) = source.pieces()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(len(rows) for rows, _ in piece.read())
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_takes_much_less_memory_than_its_size(tmp_path, kind):
    line = {
        "csv": '{i},0.5,"a text of some length, with a comma",x\n',
        "jsonl": '{{"n": {i}, "x": 0.5, "s": "a text"}}\n',
    }[kind]
    part = "".join(line.format(i=i) for i in range(10_000))
    copies = (180 << 20) // len(part)
    with (tmp_path / f"t.{kind}").open("w") as stream:
        stream.write("n,x,s,t\n" if kind == "csv" else "")
        for _ in range(copies):
            stream.write(part)
    command = [sys.executable, "-c", _READ, f"t.{kind}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == copies * 10_000
    assert grown < 90  # MB; the file has 180
