"""What orchestration costs: one Dag run beside its stages' own compute, and beside one plain script.

Subjects, in turn: `stages` (mnist_digits in one process by `lepton run --force`), `plain` (benchmarks/plain_digits.py:
the same training and export, nothing else), `dag` (the same stages by Airflow's scheduler, every one forced).
Then the Dag again with nothing changed, and each stage by what its imports cost where no stage host forks it (not with
--quick, which takes one round of two epochs and no Dag run to warm up).
The figures name the stage host's own cost: its memory, shared with its forks, and the processor time of its imports.
Each measurement is shown as it comes; a benchmark that is told to end takes the whole platform with it.

Ratios: `dag_vs_plain`, `dag_vs_stages`, `dag_vs_limit` (the limit is 1.5 x plain + 1 s a stage; at most 1 is the aim),
`rerun_vs_dag`.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import alternate, arguments, report, tell
from lepton_tasks.deployment import embedded
from lepton_tasks.deployment.airflow_api import AirflowClient
from lepton_tasks.deployment.embedded_services import AIRFLOW_USER, airflow_password
from lepton_tasks.stages.pipeline import STAGES

NAME = "mnist_digits"
FILE = Path("configs/use_cases") / f"{NAME}.yaml"
TASKS = {f"{stage.group}.{stage.name}": stage for stage in STAGES}


class Line:
    """The whole line on this machine, in a state folder of its own."""

    def __init__(self, root: Path, airflow: AirflowClient, epochs: int) -> None:
        self.root, self.airflow, self.epochs = root, airflow, epochs
        self.task_seconds: dict[str, list[float]] = {}
        self.stage_seconds: dict[str, list[float]] = {}
        self.refs: dict[str, Any] = {}

    def dag(self, *, force: bool = True) -> float:
        """Seconds of one Dag run, from its first task's start to its last task's end."""
        run_id = self.airflow.trigger(NAME, {"epochs": self.epochs, "force": force})
        while (state := self.airflow.run_state(NAME, run_id)) not in ("success", "failed"):
            time.sleep(0.5)
        if state == "failed":
            raise SystemExit(f"the run {run_id} failed; look into {self.root}")
        tasks = self.airflow.tasks(NAME, run_id)
        if force:
            for task in tasks:
                self.task_seconds.setdefault(TASKS[task.task_id].name, []).append(task.seconds or 0.0)
        for task_id, stage in TASKS.items():
            self.refs[stage.produces] = self.airflow.xcom(NAME, run_id, task_id)
        starts = [task.start for task in tasks if task.start]
        ends = [task.end for task in tasks if task.end]
        return (max(ends) - min(starts)).total_seconds()

    def stages(self) -> float:
        """Seconds of the same stages in one process, without Airflow, imports of the command line left out."""
        command = [sys.executable, "-m", "lepton_tasks.cli", "run", str(FILE), "--force", "--json"]
        command += ["--set", f"train.epochs={self.epochs}"]
        reply = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for name, stage in reply["stages"].items():
            self.stage_seconds.setdefault(name, []).append(stage["seconds"])
        return sum(stage["seconds"] for stage in reply["stages"].values())

    def plain(self) -> float:
        """Seconds of the plain script, its interpreter's start included, for as many epochs as the stage trained."""
        epochs = str(self.refs["checkpoint"]["facts"]["epochs"] if self.refs else self.epochs)
        output = str(self.root / "plain.onnx")
        command = [sys.executable, "-m", "benchmarks.plain_digits", "--epochs", epochs, "--output", output]
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        return time.perf_counter() - began

    def stage_host(self) -> dict[str, float]:
        """What the stage host takes: memory in MiB, its share of what it shares; processor time in seconds."""
        host = psutil.Process(embedded.status(self.root)["stages"]["pid"])
        times = host.cpu_times()
        return {
            "stage_host_mib": host.memory_full_info().pss / 2**20,
            "stage_host_cpu_seconds": times.user + times.system,
        }

    def import_seconds(self) -> dict[str, float]:
        """Seconds that each stage spends in import statements as a process of its own, by the interpreter's account."""
        spent = {}
        refs, result = self.root / "refs.json", self.root / "result.json"
        for stage in STAGES:
            refs.write_text(json.dumps(self.refs))
            command = [sys.executable, "-X", "importtime", "-m", "lepton_tasks.stages", stage.name, "--force"]
            command += ["--use-case", str(FILE), "--set", f"train.epochs={self.epochs}", "--run-id", "imports"]
            command += ["--refs", str(refs), "--result", str(result)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            self.refs[stage.produces] = json.loads(result.read_text())["ref"]  # forced: another digest than before
            selves = [
                line.split("|")[0].removeprefix("import time:").strip() for line in told.splitlines() if "|" in line
            ]
            spent[stage.name] = sum(int(value) for value in selves if value.isdigit()) / 1e6
            tell(f"imports of {stage.name}", spent[stage.name])
        return spent


@contextmanager
def platform(epochs: int) -> Iterator[Line]:
    """Everything started on free ports, and stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lepton-benchmark-") as folder:
        root = Path(folder)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["LEPTON_HOME"] = folder
        for variable in ("LEPTON_AIRFLOW_PORT", "LEPTON_MLFLOW_PORT", "LEPTON_SERVING_PORT"):
            os.environ[variable] = str(_free_port())
        addresses = embedded.up(root)
        try:
            with AirflowClient(addresses["airflow_url"], AIRFLOW_USER, airflow_password(root)) as airflow:
                airflow.wait_for_dag(NAME)
                airflow.unpause(NAME)
                yield Line(root, airflow, epochs)
        finally:
            embedded.down(root)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _median(values: Mapping[str, list[float]], name: str) -> float:
    return statistics.median(values[name])


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    epochs, rounds = (2, 1) if options.quick else (12, 3)
    with platform(epochs) as line:
        if not options.quick:
            tell("dag, not counted", line.dag())  # byte code and file caches warm up
            line.task_seconds.clear()
        found = alternate({"stages": line.stages, "plain": line.plain, "dag": line.dag}, rounds)
        if not options.quick:
            line.dag(force=False)  # after a forced run the gate meets another champion: this run judges anew
        found |= alternate({"rerun": lambda: line.dag(force=False)}, rounds)
        host = line.stage_host()
        imports = {} if options.quick else line.import_seconds()
    rows = []
    for stage in STAGES:
        task, own = _median(line.task_seconds, stage.name), _median(line.stage_seconds, stage.name)
        rows.append((stage.name, own, task, task - own, imports.get(stage.name, "")))
    report(
        "pipeline",
        ratios={
            "dag_vs_plain": found["dag"] / found["plain"],
            "dag_vs_stages": found["dag"] / found["stages"],
            "dag_vs_limit": found["dag"] / (1.5 * found["plain"] + len(STAGES)),
            "rerun_vs_dag": found["rerun"] / found["dag"],
        },
        figures={f"{name}_seconds": value for name, value in found.items()}
        | {"epochs": float(epochs)}
        | host
        | {f"{row[0]}_overhead_seconds": row[3] for row in rows},
        header=("stage", "own compute, s", "as a task, s", "overhead, s", "imports without a host, s"),
        rows=[
            *rows,
            ("all", found["stages"], found["dag"], found["dag"] - found["stages"], sum(imports.values()) or ""),
        ],
        quick=options.quick,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
