"""What training through the stage's own process costs beside a hand-written PyTorch loop, on the same network and data.

Ratios of seconds a step (1 is as fast; smaller is better): `step_vs_loop_small` (batches of about two milliseconds) and
`step_vs_loop_large` (of ten and more), beside a loop with AdamW as torch has it by default; `.._fused_loop_..` beside
one whose optimiser is one operation, as the stage's is: what is left is the loop around it. `two_processes_vs_one`:
samples a second of two gloo processes beside one process with two threads (larger is better). `loader_share`: seconds
of reading batches beside seconds of training on them. Lightning and the loop use the same threads, and wait for them
alike if the variable GOMP_SPINCOUNT is 1000, as the launcher has it. A B A B, medians.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.harness import alternate, arguments, report
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.train_settings import Train
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.models.cnn import CNN
from lepton_tasks.models.pictures import Normalised, pixels
from lepton_tasks.training.batches import Batches
from lepton_tasks.training.job import Job
from lepton_tasks.training.launch import training, wait

LABELS = [str(i) for i in range(10)]
# Side of the pictures, channels, width of the network, batch, steps an epoch.
SMALL: dict[str, int] = {"side": 12, "channels": 1, "width": 4, "batch": 32, "steps": 300}
LARGE: dict[str, int] = {"side": 48, "channels": 3, "width": 16, "batch": 64, "steps": 30}
EPOCHS = 3


def write_features(folder: Path, size: dict[str, int]) -> Path:
    """Random pictures."""
    shape = (size["side"], size["side"], size["channels"])
    return write_random(folder, size["batch"] * size["steps"], shape, values=256, dtype=np.uint8)


def write_random(folder: Path, rows: int, shape: tuple[int, ...], *, values: int, dtype: type) -> Path:
    """Rows of numbers from 1 to below `values`, each of a random class: nothing is to be learned, only computed."""
    chance = np.random.default_rng(0)
    for split, count in (("train", rows), ("validation", 64), ("test", 64)):
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "inputs.npy", chance.integers(1, values, (count, *shape)).astype(dtype))
        np.save(folder / split / "targets.npy", chance.integers(0, len(LABELS), count))
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return folder


def fitted(size: dict[str, int]) -> dict[str, Any]:
    """What the feature extractor would have learned."""
    channels = size["channels"]
    return {
        "height": size["side"],
        "width": size["side"],
        "channels": channels,
        "mean": [0.5] * channels,
        "std": [0.3] * channels,
    }


def ours(features: Path, size: dict[str, int], *, devices: int = 1) -> float:
    """Seconds a step of the stage's training process, in its best epoch; the first warms up."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            run_id="benchmark",
            features=features,
            workdir=Path(folder),
            task=ComponentSpec(name="image_classification"),
            model=ComponentSpec(name="cnn", params={"width": size["width"]}),
            train=Train(
                epochs=EPOCHS,
                batch_size=size["batch"] // devices,
                devices=devices,
                schedule=ComponentSpec(name="constant"),
                keep="last",
                checkpoint_steps=1_000_000,
            ),
            fitted=fitted(size),
            labels=LABELS,
            seed=0,
        )
        with training(job) as process:
            wait(job, process, lambda row: None)
        rates = [row["samples_per_second"] for row in job.rows()[1:]]
    return float(size["batch"] / max(rates))


def loop(features: Path, size: dict[str, int], *, fused: bool = False) -> float:
    """Seconds a step of a hand-written loop over the same memory map, in its best epoch.

    With `fused` its optimiser is one operation, as the stage's is.
    """
    rows = open_split(features, "train")
    torch.manual_seed(0)
    shape = (size["side"], size["side"], size["channels"])
    facts = fitted(size)
    network = CNN(shape, len(LABELS), width=size["width"]).to(memory_format=torch.channels_last)
    model = Normalised(network, facts["mean"], facts["std"]).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
    seconds = 0.0
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(rows.inputs))
        began = time.perf_counter()
        for step in range(size["steps"]):
            chosen = order[step * size["batch"] : (step + 1) * size["batch"]]
            inputs, targets = torch.from_numpy(rows.inputs[chosen]), torch.from_numpy(rows.targets[chosen])
            loss = functional.cross_entropy(model(pixels(inputs)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - began if epoch == 0 else min(seconds, time.perf_counter() - began)
    return seconds / size["steps"]


def loader(features: Path, size: dict[str, int]) -> float:
    """Seconds a step of reading batches alone."""
    batches = Batches(open_split(features, "train"), size=size["batch"], seed=0)
    began = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - began) / batches.steps


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    rounds = 1 if options.quick else 3
    with tempfile.TemporaryDirectory() as folder:
        small = write_features(Path(folder, "small"), SMALL)
        large = write_features(Path(folder, "large"), LARGE)
        seconds = alternate(
            {
                "ours, small": lambda: ours(small, SMALL),
                "loop, small": lambda: loop(small, SMALL),
                "fused loop, small": lambda: loop(small, SMALL, fused=True),
                "ours, large": lambda: ours(large, LARGE),
                "loop, large": lambda: loop(large, LARGE),
                "fused loop, large": lambda: loop(large, LARGE, fused=True),
                "two processes, large": lambda: ours(large, LARGE, devices=2),
                "loader, large": lambda: loader(large, LARGE),
            },
            rounds,
        )
    ratios = {
        "step_vs_loop_small": seconds["ours, small"] / seconds["loop, small"],
        "step_vs_loop_large": seconds["ours, large"] / seconds["loop, large"],
        "step_vs_fused_loop_small": seconds["ours, small"] / seconds["fused loop, small"],
        "step_vs_fused_loop_large": seconds["ours, large"] / seconds["fused loop, large"],
        "two_processes_vs_one": seconds["ours, large"] / seconds["two processes, large"],
        "loader_share": seconds["loader, large"] / seconds["ours, large"],
    }
    limits = {"step_vs_loop_small": 1.15, "step_vs_loop_large": 1.05}
    report(
        "training",
        ratios=ratios,
        figures={f"ms a step: {name}": 1000 * value for name, value in seconds.items()},
        header=("what", "ms a step"),
        rows=[(name, 1000 * value) for name, value in seconds.items()],
        quick=options.quick,
        as_json=options.json,
        aims={name: {"aim": f"<= {most}", "met": ratios[name] <= most} for name, most in limits.items()}
        | {"two_processes_vs_one": {"aim": ">= 0.9", "met": ratios["two_processes_vs_one"] >= 0.9}},
    )


if __name__ == "__main__":
    main()
