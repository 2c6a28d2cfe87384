"""Training on a GPU: what it learns, costs and leaves behind. Skipped where there is none."""

import numpy as np
import onnxruntime
import pytest
import tiny_training
import torch
import torch.distributed as dist

from lepton_tasks.core.energy import MEASURED
from lepton_tasks.core.errors import ConfigError, StageError
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.training import feeding, fit
from lepton_tasks.training.checkpoint import read_checkpoint, write_checkpoint
from lepton_tasks.training.course import Course
from lepton_tasks.training.energy import _nvml
from lepton_tasks.training.export import export_onnx
from lepton_tasks.training.layout import ShardingStrategy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

# Nothing by chance but the weights, which begin on the CPU: random numbers of a GPU are others.
EXACT = {"augment": [], "epochs": 3}
PLAIN = {"model": ComponentSpec(name="cnn", params={"width": 16, "dropout": 0.0})}


def job(folder, **train):
    folder.mkdir(exist_ok=True)
    return tiny_training.job(folder, **(EXACT | train)).model_copy(update=PLAIN)


def losses(of):
    fit.fit(of)
    return [row["train_loss"] for row in of.rows()]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_device", lambda job: torch.device("cpu"))
        return losses(job(tmp_path_factory.mktemp("cpu") / "job"))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 0.03),
        ({"precision": "bf16"}, 0.1),
        ({"precision": "16"}, 0.05),
        ({"compile": True}, 0.03),
        ({"compile": True, "precision": "bf16"}, 0.1),
        ({"compile": "graphs"}, 0.03),
    ],
    ids=["tf32", "bf16", "fp16", "compiled", "compiled bf16", "graphs"],
)
def test_a_gpu_learns_what_a_cpu_does(tmp_path, on_cpu, settings, tolerance):
    assert losses(job(tmp_path, **settings)) == pytest.approx(on_cpu, rel=tolerance)


def test_gradients_of_half_precision_are_clipped_after_they_are_unscaled(tmp_path):
    clipped = losses(job(tmp_path / "32", gradient_clip=0.05))
    assert losses(job(tmp_path / "16", gradient_clip=0.05, precision="16")) == pytest.approx(clipped, rel=0.05)
    state = torch.load(tmp_path / "16" / "work" / "resume.pt", weights_only=True)
    assert state["precision"]["scale"] >= 2**16


@pytest.mark.parametrize("settings", [{}, {"precision": "16"}, {"compile": True}], ids=["tf32", "fp16", "compiled"])
def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch, settings):
    settings = {"average": "ema", **settings}
    unbroken = losses(job(tmp_path / "unbroken", **settings))
    real = Course.on_train_batch_end

    def told(self, trainer, module, *rest):
        self.told_to_stop = module.step_done + 1 == 9
        real(self, trainer, module, *rest)

    broken = job(tmp_path / "broken", **settings)
    monkeypatch.setattr(Course, "on_train_batch_end", told)
    with pytest.raises(StageError, match="after 9 steps"):
        fit.fit(broken)
    monkeypatch.undo()
    assert losses(broken) == pytest.approx(unbroken, rel=1e-3)


def test_energy_and_memory_are_told_for_each_epoch(tmp_path):
    fit.fit(job(tmp_path))
    counted = bool(_nvml(str(torch.cuda.get_device_properties(0).uuid)))
    for row in tiny_training.job(tmp_path).rows():
        assert 0 < row["gpu_memory_gib"] < 4
        names = [name for name in row if name.endswith("_wh")]
        assert len(names) == 1
        assert row[names[0]] > 0
        assert names[0].startswith("processor_") != counted
        assert names[0].endswith(MEASURED) or "estimate" in names[0]


@pytest.mark.parametrize("strategy", ["ddp", ShardingStrategy], ids=["ddp", "fsdp"])
def test_one_process_of_several_learns_the_same_over_nccl(tmp_path, monkeypatch, on_cpu, strategy):
    monkeypatch.setattr(fit, "_strategy", lambda job, ranks: strategy if isinstance(strategy, str) else strategy())
    try:
        assert losses(job(tmp_path, accumulate=1)) == pytest.approx(on_cpu, rel=0.03)
        assert dist.get_backend() == "nccl"
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def test_what_was_trained_on_a_gpu_is_exported(tmp_path):
    made = job(tmp_path, precision="bf16", compile=True)
    fit.fit(made)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(folder, made, {"epochs": 3})
    trained = read_checkpoint(folder)
    assert {p.device.type for p in trained.network.parameters()} == {"cpu"}
    rows = np.load(made.features / "test" / "inputs.npy")
    export_onnx(trained.deployable, rows, folder / "model.onnx", outputs=trained.task.outputs, opset=20)
    answers = onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, {"image": rows})[0]
    with torch.inference_mode():
        assert np.allclose(answers, trained.deployable(torch.from_numpy(rows)).numpy(), atol=1e-5)


def test_what_does_not_fit_into_memory_is_named(tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        wide = {"model": ComponentSpec(name="cnn", params={"width": 1024})}
        with pytest.raises(ConfigError, match=r"train\.batch_size: .*batches of 96.*Lower it"):
            fit.fit(job(tmp_path, batch_size=96).model_copy(update=wide))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_rows_read_ahead_are_those_that_lie_in_the_gpu_s_memory(tmp_path):
    device = torch.device("cuda", 0)
    rows = tiny_training.job(tmp_path).learning_task().training_rows(tmp_path / "features")
    chosen = np.random.default_rng(0).permutation(96).reshape(6, 16)
    ways = feeding.resident(rows, device)(chosen), feeding.ahead(rows, device, chosen)
    for (inputs, targets), (read, aims) in zip(*ways, strict=True):
        assert inputs.device == read.device == device
        assert torch.equal(inputs, read)
        assert torch.equal(targets, aims)


def test_no_step_waits_for_the_gpu(tmp_path, monkeypatch):
    """Torch raises at whatever would wait, while a step runs."""
    real = fit.EpochLoop.advance

    def advance(self, data_fetcher):
        torch.cuda.set_sync_debug_mode("error" if self.batch_progress.current.ready > 1 else "default")
        try:
            real(self, data_fetcher)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(fit.EpochLoop, "advance", advance)
    fit.fit(job(tmp_path, checkpoint_steps=None, gradient_clip=1.0, average="ema", precision="bf16"))
