"""Training in its own process: what a kill, a signal and a second process do to it."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tiny_training
import torch
from dask_hosts import Networks

from lepton_tasks.core.environment import Training
from lepton_tasks.core.errors import LeptonError, StageError
from lepton_tasks.training.checkpoint import finished, network_of, write_checkpoint
from lepton_tasks.training.job import Teacher
from lepton_tasks.training.launch import training, wait
from lepton_tasks.training.node import called

pytestmark = pytest.mark.slow

# With an average of the weights, which must go on too.
job = functools.partial(tiny_training.job, average="ema")

# Six steps an epoch, the state written every two.
STEPS = 6

# A training that sends itself a signal after a given step.
SIGNALLED = """
import os, sys
from lepton_tasks.training import worker
from lepton_tasks.training.course import Course

real, step, number = Course.on_train_batch_end, int(sys.argv[2]), int(sys.argv[3])

def ended(self, trainer, module, *rest):
    if module.step_done + 1 == step:
        os.kill(os.getpid(), number)
    real(self, trainer, module, *rest)

Course.on_train_batch_end = ended
sys.exit(worker.main(sys.argv[1:2]))
"""

# What a stage does: start a training and wait for it.
CALLER = """
import sys
from pathlib import Path
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import training, wait
from lepton_tasks.training.node import called

job = Job.model_validate_json(Path(sys.argv[1]).read_text())
with called(Path(sys.argv[-1]), job.file, "a-run"), training(job) as process:
    wait(job, process, lambda row: None)
"""


def train(of):
    rows = []
    with training(of) as process:
        outcome = wait(of, process, rows.append)
    return outcome, rows


def write(of):
    of.file.write_text(of.model_dump_json())
    return of


def signalled(of, step, number):
    command = [sys.executable, "-c", SIGNALLED, str(write(of).file), str(step), str(int(number))]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def timeless(rows):
    timed = ("seconds", "samples_per_second", "energy_wh", "energy_estimate_wh")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.fixture(scope="module")
def unbroken_job(tmp_path_factory):
    return job(tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def unbroken(unbroken_job):
    outcome, rows = train(unbroken_job)
    return torch.load(unbroken_job.best, weights_only=True), outcome, rows


def assert_same(of, outcome, rows, unbroken):
    weights, expected, expected_rows = unbroken
    assert timeless(rows) == timeless(expected_rows)
    assert outcome["best_epoch"] == expected["best_epoch"]
    found = torch.load(of.best, weights_only=True)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_training_learns_and_says_how(unbroken):
    _, outcome, rows = unbroken
    assert outcome["epochs"] == len(rows) == 3
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert max(row["validation_accuracy"] for row in rows) == rows[outcome["best_epoch"]]["validation_accuracy"] > 0.75
    assert all(row["samples_per_second"] > 0 for row in rows)


def test_the_averaged_weights_are_kept(unbroken, unbroken_job):
    state = torch.load(unbroken_job.resume, weights_only=True)
    assert unbroken[1]["best_epoch"] == 2  # the last one, so that the two belong to the same step
    for name, kept in unbroken[0].items():
        assert torch.equal(kept, state["average"][name])
        assert not kept.is_floating_point() or not torch.equal(kept, state["network"][name])


def test_a_killed_training_goes_on_bit_for_bit(tmp_path, unbroken):
    of = job(tmp_path)
    killed = signalled(of, STEPS + 3, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(of.resume, weights_only=True)["step"] == STEPS + 2  # the last even step: amid the second epoch
    assert not of.outcome.exists()
    assert_same(of, *train(of), unbroken)


def test_a_killed_training_without_half_of_the_channels_goes_on(tmp_path, unbroken_job, unbroken):
    (taught := tmp_path / "taught").mkdir()
    write_checkpoint(taught, unbroken_job, unbroken[1])
    of = job(tmp_path, epochs=2).model_copy(update={"teacher": Teacher(checkpoint=taught, prune=0.5)})
    killed = signalled(of, STEPS + 3, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    outcome, rows = train(of)
    assert outcome["epochs"] == len(rows) == 2
    assert outcome["parameters"] < 0.4 * unbroken[1]["parameters"]
    assert rows[-1]["validation_accuracy"] > 0.75
    kept = finished(of, outcome).network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in torch.load(of.best, weights_only=True).items())


def test_added_up_gradients_drawn_rows_and_a_plateau_survive_a_kill_too(tmp_path):
    settings = {
        "batch_size": 8,  # twelve batches an epoch
        "accumulate": 5,
        "balance": "sampling",
        "loss": {"name": "focal"},
        "schedule": {"name": "plateau", "params": {"patience": 0}},
    }
    whole, of = job(tmp_path / "whole", **settings), job(tmp_path / "killed", **settings)
    outcome, rows = train(whole)
    assert rows[0]["train_loss"] < 0.5  # of a batch, not a fifth of it: focal's ln(2) / 4 at the start
    assert rows[0]["train_loss"] > 0.05
    assert signalled(of, 12 + 9, signal.SIGKILL).returncode == -signal.SIGKILL
    assert torch.load(of.resume, weights_only=True)["step"] == 12 + 5  # where no gradient waits for others
    assert_same(of, *train(of), (torch.load(whole.best, weights_only=True), outcome, rows))


@pytest.mark.parametrize("step", [STEPS + 3, 2 * STEPS, 3 * STEPS])  # amid an epoch, where one ends, and the last
def test_a_training_told_to_stop_writes_its_state_first(tmp_path, unbroken, step):
    of = job(tmp_path)
    stopped = signalled(of, step, signal.SIGTERM)
    assert stopped.returncode == 1, stopped.stderr
    failure = json.loads(of.failure.read_text())
    assert (failure["type"], failure["what"]) == ("StageError", f"training was stopped after {step} steps.")
    assert torch.load(of.resume, weights_only=True)["step"] == step
    assert_same(of, *train(of), unbroken)


def test_a_finished_training_is_not_repeated(unbroken, unbroken_job):
    _, outcome, rows = unbroken
    written = unbroken_job.best.stat().st_mtime_ns
    assert train(unbroken_job) == (outcome, rows)
    assert unbroken_job.best.stat().st_mtime_ns == written


def test_the_last_epoch_is_kept_if_so_wished(tmp_path):
    of = job(tmp_path, epochs=6, patience=1, keep="last", learning_rate=1e-9, optimizer={"name": "sgd"})
    outcome, rows = train(of)
    assert len(rows) == 6
    assert outcome["best_epoch"] == 5


def test_training_stops_when_nothing_improves(tmp_path):
    of = job(tmp_path, epochs=50, patience=2, learning_rate=1e-9, optimizer={"name": "sgd"})
    outcome, rows = train(of)
    assert len(rows) == outcome["epochs"] == outcome["best_epoch"] + 3 < 50


def test_a_loss_that_is_not_finite_is_named_with_the_way_out(tmp_path):
    of = job(tmp_path)
    of = of.model_copy(update={"fitted": {**of.fitted, "std": [0.0]}})  # pixels / 0
    with pytest.raises(LeptonError, match=r"training loss became nan in epoch 0.*Lower train.learning_rate"):
        train(of)


def test_a_process_that_dies_is_told_from_an_error(tmp_path):
    of = job(tmp_path, epochs=1000, patience=1000)
    with training(of) as process:
        process.kill()
        with pytest.raises(StageError, match="ended with signal SIGKILL"):
            wait(of, process, lambda row: None)


TWO = {"devices": 2, "batch_size": 8}  # together the same 16 rows a step


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    of = job(tmp_path_factory.mktemp("two"), **TWO)
    outcome, rows = train(of)
    return torch.load(of.best, weights_only=True), outcome, rows


def test_two_processes_learn_what_one_does(two, unbroken):
    _, outcome, rows = two
    _, expected, expected_rows = unbroken
    assert outcome["parameters"] == expected["parameters"]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], abs=0.15)
        assert row["learning_rate"] == other["learning_rate"]
    best, other = rows[outcome["best_epoch"]], expected_rows[expected["best_epoch"]]
    assert best["validation_accuracy"] == pytest.approx(other["validation_accuracy"], abs=0.1)


def test_a_lost_process_costs_only_the_steps_since_the_last_state(tmp_path, two):
    of, rows = job(tmp_path, **TWO), []
    with training(of) as process:
        until(lambda: of.resume.exists())
        ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if "worker" in " ".join(p.cmdline())]
        next(p for p in ranks if p.environ().get("RANK") == "1").kill()
        outcome = wait(of, process, rows.append)
    _, expected, expected_rows = two
    assert outcome["epochs"] == expected["epochs"]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row["validation_loss"] == pytest.approx(other["validation_loss"], abs=0.01)


def test_shared_out_weights_learn_what_replicas_do_even_after_a_stop(tmp_path, two):
    of = job(tmp_path, strategy="fsdp", gradient_clip=100.0, **TWO)
    with training(of) as process:
        until(lambda: of.resume.exists())
        process.terminate()
        with pytest.raises(StageError, match="training was stopped after"):
            wait(of, process, lambda row: None)
    assert 0 < torch.load(of.resume, weights_only=True)["step"] < 3 * STEPS
    outcome, rows = train(of)
    weights, expected, expected_rows = two
    assert outcome["parameters"] == expected["parameters"]
    for row, other in zip(rows, expected_rows, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert row[name] == pytest.approx(other[name], abs=0.01)
    found = torch.load(of.best, weights_only=True)
    assert {name: kept.shape for name, kept in found.items()} == {name: kept.shape for name, kept in weights.items()}
    network_of(of, of.learning_task()).load_state_dict(found)  # one process, without any of the others


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2")
def test_two_machines_learn_what_two_processes_do(tmp_path, two):
    home = tmp_path / "home"
    (home / "run" / "trainings").mkdir(parents=True)
    with Networks(2) as network, contextlib.ExitStack() as stack:
        machines = {"nodes": 2, "rendezvous": f"{network.addresses[0]}:29400"}
        of = job(tmp_path, batch_size=8).model_copy(update={"machines": Training(**machines)})
        environment = {**os.environ, "LEPTON_HOME": str(home)}
        node = [sys.executable, "-m", "lepton_tasks.training.node", "--once", "--address", network.addresses[1]]
        joined = subprocess.Popen([*network.inside(1), *node], env=environment)
        stack.callback(joined.kill)
        caller = [*network.inside(0), sys.executable, "-c", CALLER, str(write(of).file), str(home)]
        subprocess.run(caller, env=environment, check=True, timeout=300)
        assert joined.wait(60) == 0
    assert not list((home / "run" / "trainings").iterdir())
    _, outcome, rows = two
    assert json.loads(of.outcome.read_text())["epochs"] == outcome["epochs"]
    for row, other in zip(of.rows(), rows, strict=True):
        assert row["validation_loss"] == pytest.approx(other["validation_loss"], abs=0.01)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and iproute2")
def test_pods_train_while_the_stage_waits(tmp_path, two):
    home = tmp_path / "home"
    (home / "run" / "trainings").mkdir(parents=True)
    with Networks(2) as network, contextlib.ExitStack() as stack:
        pods = {"image": "", "claim": ""}
        machines = Training(nodes=2, rendezvous=f"{network.addresses[0]}:29400", kubernetes=pods)
        of, nodes = job(tmp_path, batch_size=8).model_copy(update={"machines": machines}), []
        for number, address in enumerate(network.addresses):
            node = [sys.executable, "-m", "lepton_tasks.training.node", "--once", "--address", address]
            # As Kubeflow's operator has it, which knows nothing of the ranks within a pod.
            environment = {**os.environ, "LEPTON_HOME": str(home), "RANK": str(number), "WORLD_SIZE": "2"}
            nodes.append(subprocess.Popen([*network.inside(number), *node], env=environment))
            stack.callback(nodes[-1].kill)
        with called(home, of.file, "a-run") as call, training(of, call=call) as process:
            outcome, rows = wait(of, process, lambda row: None), of.rows()
        assert [node.wait(60) for node in nodes] == [0, 0]
    assert not list((home / "run" / "trainings").iterdir())
    assert outcome["epochs"] == len(rows)
    for row, other in zip(rows, two[2], strict=True):
        assert row["validation_loss"] == pytest.approx(other["validation_loss"], abs=0.01)


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def running_caller(of):
    """A stage's process amid a training of two processes, and all its descendants."""
    command = [sys.executable, "-c", CALLER, str(write(of).file), str(of.workdir)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    family = []
    try:
        deadline = time.monotonic() + 240
        while not of.resume.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert sum("lepton_tasks.training.worker" in p.cmdline() for p in family) >= 3  # the agent and two ranks
        yield process, family
    finally:
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_it(tmp_path, number):
    of = job(tmp_path, epochs=10_000, patience=10_000, devices=2, batch_size=8)
    with running_caller(of) as (process, family):
        before = torch.load(of.resume, weights_only=True)["step"]
        os.kill(process.pid, number)
        _, alive = psutil.wait_procs(family, timeout=40)
        assert alive == []
        process.wait(40)
        if number == signal.SIGTERM:
            assert "training was stopped" in json.loads(of.failure.read_text())["what"]
            assert torch.load(of.resume, weights_only=True)["step"] > before
