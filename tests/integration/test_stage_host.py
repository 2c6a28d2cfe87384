"""What the heavy libraries do in a fork of a host that has imported them."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from stage_hosts import runs, stage_host, wait_for
from tiny_training import job

from lepton_tasks.stages.host import LIBRARIES

ALL_THERE = "import sys; assert {'torch', 'mlflow', 'onnxscript'} <= set(sys.modules); print('there')"
TRAIN = """
import torch
torch.set_num_threads(2)
torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(14400, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 2
rows = torch.utils.data.TensorDataset(images, labels)
losses = []
for epoch in range(6):
    for x, y in torch.utils.data.DataLoader(rows, batch_size=32, num_workers=1 if epoch == 5 else 0):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    losses.append(loss.item())
assert torch.get_num_threads() == 2
assert losses[-1] < losses[0] / 2, losses
print("ok")
"""
LIGHTNING = """
import pytorch_lightning as pl, torch
class Net(pl.LightningModule):
    def __init__(self): super().__init__(); self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index): return self.layer(batch[0]).square().mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 4)), batch_size=8)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Net(), data)
assert trainer.global_step == 8
print("ok")
"""
POLARS = """
import sys
assert "polars" not in sys.modules
import polars as pl
frame = pl.DataFrame({"key": [i % 7 for i in range(700_000)], "value": range(700_000)})
for engine in ("in-memory", "streaming"):
    found = frame.lazy().group_by("key").agg(pl.col("value").sum()).sort("key").collect(engine=engine)
    assert found["value"].sum() == 699_999 * 350_000
print("ok")
"""
ARROW = """
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet as pq, sys
table = pa.table({"x": np.arange(1_000_000), "y": np.random.rand(1_000_000)})
pq.write_table(table, sys.argv[1] + "/part.parquet", row_group_size=50_000)
back = ds.dataset(sys.argv[1], format="parquet").to_table(use_threads=True)
assert back.equals(table)
assert pd.DataFrame({"a": [1, 1, 2]}).groupby("a").size().to_list() == [2, 1]
assert np.allclose(np.linalg.inv(np.eye(300) * 2) @ (np.eye(300) * 2), np.eye(300))
print("ok")
"""
DASK = """
import dask, threading
with dask.config.set(scheduler="threads", num_workers=2):
    parts = [dask.delayed(lambda i: (i * i, threading.get_ident()))(i) for i in range(50)]
    found = dask.compute(*parts)
assert sum(value for value, _ in found) == 40425
from distributed import Client, LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
    with Client(cluster) as client:
        assert client.submit(lambda: 42).result(timeout=30) == 42
print("ok")
"""
EXPECTATIONS = """
import great_expectations as gx, pandas as pd
context = gx.get_context(mode="ephemeral")
batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
suite = gx.ExpectationSuite(name="s", expectations=[gx.expectations.ExpectColumnValuesToNotBeNull(column="x")])
for values, good in (([1, 2], True), ([1, None], False)):
    assert batch.get_batch({"dataframe": pd.DataFrame({"x": values})}).validate(suite).success is good
print("ok")
"""
MLFLOW = """
import sys
from mlflow import MlflowClient
client = MlflowClient("sqlite:///" + sys.argv[1] + "/mlflow.db")
run = client.create_run(client.create_experiment("one")).info.run_id
client.log_metric(run, "loss", 0.25)
client.set_terminated(run)
assert client.get_run(run).data.metrics == {"loss": 0.25}
print("ok")
"""
RUNTIME = """
import io, numpy as np, onnx, onnxruntime, torch
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score
class Twice(torch.nn.Module):
    def forward(self, x): return x * 2
stream = io.BytesIO()
torch.onnx.export(Twice(), (torch.ones(1, 3),), stream, dynamo=False, input_names=["x"])
session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
assert session.run(None, {"x": np.ones((1, 3), np.float32)})[0].tolist() == [[2, 2, 2]]
assert accuracy_score([1, 0], [1, 1]) == 0.5
Figure().savefig(io.BytesIO(), format="png")
print("ok")
"""
# What a stage does: start a training and wait for it.
CALLER = """
import sys
from pathlib import Path
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import training, wait
job = Job.model_validate_json(Path(sys.argv[1]).read_text())
with training(job) as process:
    print(type(process).__name__, process.pid, flush=True)
    wait(job, process, lambda row: None)
"""
RANDOM = "import numpy, random, uuid; print(numpy.random.rand(), random.random(), uuid.uuid4())"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    modules = tmp_path_factory.mktemp("modules")
    scripts = {
        "train": TRAIN,
        "lightning": LIGHTNING,
        "use_polars": POLARS,
        "use_arrow": ARROW,
        "use_dask": DASK,
        "expectations": EXPECTATIONS,
        "use_mlflow": MLFLOW,
        "runtime": RUNTIME,
        "draw": RANDOM,
        "all_there": ALL_THERE,
        "sleeper": "import time; time.sleep(600)",
    }
    for name, text in scripts.items():
        (modules / f"{name}.py").write_text(text)
    with stage_host(tmp_path_factory.mktemp("host"), *LIBRARIES, modules=modules, GOMP_SPINCOUNT="1000") as running:

        def all_there():
            process = running.start("all_there")
            return process is not None and process.wait() == 0

        wait_for(all_there, 240)
        yield running


@pytest.mark.parametrize(
    "name",
    ["train", "lightning", "use_polars", "use_arrow", "use_dask", "expectations", "use_mlflow", "runtime"],
)
def test_a_library_works_in_a_fork(host, tmp_path, name):
    text, status = host.tell(name, str(tmp_path))
    assert status == 0, text
    assert text.splitlines()[-1] == "ok"


@contextlib.contextmanager
def caller(host, of, **variables):
    of.file.write_text(of.model_dump_json())
    environment = {**host.environment, **variables}
    command = [sys.executable, "-c", CALLER, str(of.file)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_training_in_a_fork_learns_the_same_bit_for_bit(host, tmp_path):
    jobs = {"HostedProcess": job(tmp_path / "fork"), "Popen": job(tmp_path / "child")}
    for way, of in jobs.items():
        home = host.root if way == "HostedProcess" else tmp_path
        with caller(host, of, LEPTON_HOME=str(home)) as process:
            told, _ = process.communicate(timeout=240)
        assert told.startswith(way), (host.root / "log").read_text()
    fork, child = (torch.load(of.best, weights_only=True) for of in jobs.values())
    assert all(torch.equal(fork[name], child[name]) for name in child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_in_a_fork_does_not_outlive_its_caller(host, tmp_path, number):
    of = job(tmp_path, epochs=10_000, patience=10_000)
    with caller(host, of) as process:
        way, pid = process.stdout.readline().split()
        assert way == "HostedProcess", (host.root / "log").read_text()
        worker = psutil.Process(int(pid))
        wait_for(of.resume.exists, 240)
        before = torch.load(of.resume, weights_only=True)["step"]
        process.send_signal(number)
        wait_for(lambda: not runs(worker), 40)
    if number == signal.SIGTERM:
        assert "training was stopped" in json.loads(of.failure.read_text())["what"]
        assert torch.load(of.resume, weights_only=True)["step"] > before


def test_no_two_forks_draw_the_same_numbers(host):
    one, two = (host.tell("draw")[0].split() for _ in range(2))
    assert not set(one) & set(two)


def test_the_host_forks_from_one_thread(host):
    host.tell("all_there")
    tasks = Path(f"/proc/{host.process.pid}/task")
    others = {(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(host.process.pid)}
    # The allocators' own, which they take care of at a fork. OpenBLAS ends its threads at the first one.
    assert others <= {"jemalloc_bg_thd"}


def test_an_idle_host_costs_no_processor_time(host):
    before = host.cpu_seconds()
    time.sleep(2)
    assert host.cpu_seconds() - before <= 0.02


def test_the_forks_share_the_hosts_memory(host):
    reader = host.start("sleeper")
    try:
        shared, alone = (psutil.Process(pid).memory_full_info() for pid in (reader.pid, host.process.pid))
        assert alone.rss < 1_000_000_000
        assert shared.uss < 0.2 * alone.rss
    finally:
        reader.kill()
        reader.wait()
