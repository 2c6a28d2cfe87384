"""What training through the stage's own process makes of one GPU, beside a hand-written loop.

The loop has what such loops have: the data in the GPU's memory, bfloat16, torch.compile, a fused optimiser, no waiting
within an epoch. `resnet18` is the ResNet-18 of 32x32 pictures, `transformer` an encoder that reads texts of 256 tokens.
Ratios: `<network>_vs_loop`, samples a second of the stage beside those of the loop (larger is better; aim .95), and
`<network>_mfu`, model FLOP utilisation: floating-point operations that torch counts in a forward and a backward pass,
times samples a second, over what the maker says the card can do in bfloat16. A B A B, medians of each run's best epoch;
the first one warms up. Some six minutes. Without a GPU nothing is measured.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import alternate, arguments, report, tell
from benchmarks.training import LABELS, write_random
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.train_settings import Train
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.training.checkpoint import network_of
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import training, wait

# Dense bfloat16 operations a second, by a part of the card's name, as its maker gives them; the first that fits.
PEAKS = {"H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 311.9e12, "L40S": 362e12, "L4": 121e12}
AIM = 0.95


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, its data and its batches."""

    task: str
    model: ComponentSpec
    fitted: Mapping[str, Any]
    batch: int
    steps: int
    shape: tuple[int, ...]
    """Of a stored row."""
    values: int
    """Stored numbers are below it."""
    dtype: type
    learning_rate: float = 1e-3


PICTURES = {"height": 32, "width": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.3] * 3}
SUBJECTS = {
    "resnet18": Subject(
        task="image_classification",
        model=ComponentSpec(
            name="residual_cnn", params={"width": 64, "blocks": [2, 2, 2, 2], "stem": 1, "dropout": 0.0}
        ),
        fitted=PICTURES,
        batch=1024,
        steps=60,
        shape=(32, 32, 3),
        values=256,
        dtype=np.uint8,
    ),
    "transformer": Subject(
        task="text_classification",
        model=ComponentSpec(
            name="transformer",
            params={"width": 768, "heads": 12, "layers": 8, "dropout": 0.0, "word_dropout": 0.0},
        ),
        fitted={"vocabulary": 16_384},
        batch=128,
        steps=60,
        shape=(256,),
        values=16_384,
        dtype=np.int32,
        learning_rate=1e-4,
    ),
}


def write_features(folder: Path, subject: Subject) -> Path:
    """Random rows."""
    rows = subject.batch * subject.steps
    return write_random(folder, rows, subject.shape, values=subject.values, dtype=subject.dtype)


def job(features: Path, subject: Subject, workdir: Path, **settings: Any) -> Job:
    """The training of a subject."""
    train: dict[str, Any] = {"epochs": 4, "precision": "bf16", "compile": True, "keep": "last"} | settings
    return Job(
        run_id="benchmark",
        features=features,
        workdir=workdir,
        task=ComponentSpec(name=subject.task),
        model=subject.model,
        train=Train(
            batch_size=subject.batch,
            learning_rate=subject.learning_rate,
            schedule=ComponentSpec(name="constant"),
            **train,
        ),
        fitted=dict(subject.fitted),
        labels=LABELS,
        seed=0,
    )


def ours(features: Path, subject: Subject, **settings: Any) -> float:
    """Samples a second of the stage's training process, in its best epoch."""
    with tempfile.TemporaryDirectory() as folder:
        made = job(features, subject, Path(folder), **settings)
        with training(made) as process:
            wait(made, process, lambda row: None)
        return float(max(row["samples_per_second"] for row in made.rows()[1:]))


def loop(features: Path, subject: Subject, *, epochs: int = 4) -> float:
    """Samples a second of a hand-written loop, in its best epoch."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    rows, made = open_split(features, "train"), job(features, subject, features)
    inputs, targets = (torch.from_numpy(np.array(part)).cuda() for part in (rows.inputs, rows.targets))
    torch.manual_seed(0)
    task = made.learning_task()
    network = network_of(made, task)
    model = task.trainable(network).cuda().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=subject.learning_rate, fused=True)

    def forward(stored: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        if subject.dtype == np.uint8:
            stored = stored.permute(0, 3, 1, 2).float() / 255
        return nn.functional.cross_entropy(model(stored), wanted)

    compiled = torch.compile(forward)
    best = 0.0
    for epoch in range(epochs):
        order = torch.randperm(len(inputs), device="cuda")
        torch.cuda.synchronize()
        began = time.perf_counter()
        for step in range(subject.steps):
            chosen = order[step * subject.batch : (step + 1) * subject.batch]
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = compiled(inputs[chosen], targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()
        if epoch > 0:
            best = max(best, len(inputs) / (time.perf_counter() - began))
    return best


def operations(features: Path, subject: Subject) -> float:
    """Floating-point operations of a sample: a forward and a backward pass, a multiplication and an addition as two."""
    made, rows, few = job(features, subject, features), open_split(features, "train"), 2
    task = made.learning_task()
    model = task.trainable(network_of(made, task)).train()
    # Attention by single products, which are counted; fused for a CPU it is not.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs = model(task.inputs(torch.from_numpy(np.array(rows.inputs[:few]))))
        nn.functional.cross_entropy(outputs, torch.from_numpy(rows.targets[:few])).backward()
    return counter.get_total_flops() / few


def products(size: int = 8192, repeats: int = 20) -> float:
    """Operations a second of one large product of bfloat16 matrices: what this very card reaches at all."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mm(left, right)
        torch.cuda.synchronize()
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return statistics.median(rates)


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    if not torch.cuda.is_available():
        print("{}" if options.json else "There is no GPU: nothing is measured.")
        return
    card = torch.cuda.get_device_name()
    reached = products()
    peak = next((rate for name, rate in PEAKS.items() if name in card), reached)
    with tempfile.TemporaryDirectory() as folder:
        features = {name: write_features(Path(folder, name), subject) for name, subject in SUBJECTS.items()}
        counted = {name: operations(features[name], subject) for name, subject in SUBJECTS.items()}
        sides: dict[str, Callable[[], float]] = {}
        for name, subject in SUBJECTS.items():
            sides[f"{name}, ours"] = lambda name=name, subject=subject: ours(features[name], subject)
            sides[f"{name}, loop"] = lambda name=name, subject=subject: loop(features[name], subject)
        rates = alternate(sides, 1 if options.quick else 2)
    used = {side: rate * counted[side.partition(",")[0]] for side, rate in rates.items()}
    ratios = {f"{name}_vs_loop": rates[f"{name}, ours"] / rates[f"{name}, loop"] for name in SUBJECTS}
    ratios |= {f"{name}_mfu": used[f"{name}, ours"] / peak for name in SUBJECTS}
    tell("operations a second of a product of 8192x8192 bfloat16 matrices", reached)
    report(
        "training_gpu",
        ratios=ratios,
        figures={f"samples a second: {side}": rate for side, rate in rates.items()}
        | {f"MFU: {side}": rate / peak for side, rate in used.items()}
        | {f"GFLOP a sample: {name}": value / 1e9 for name, value in counted.items()}
        | {"TFLOP/s: card, said": peak / 1e12, "TFLOP/s: card, in a large product": reached / 1e12},
        header=(card, "samples/s", "TFLOP/s", "MFU"),
        rows=[(side, rate, used[side] / 1e12, used[side] / peak) for side, rate in rates.items()],
        quick=options.quick,
        as_json=options.json,
        aims={f"{n}_vs_loop": {"aim": f">= {AIM}", "met": ratios[f"{n}_vs_loop"] >= AIM} for n in SUBJECTS},
    )


if __name__ == "__main__":
    main()
