"""Windows of a noisy wave, scaled, and what comes next."""

import json

import numpy as np

LABELS = []
WINDOW, HORIZON = 12, 3
ROWS = {"train": 96, "validation": 24, "test": 24}
FITTED = {
    "step_seconds": 3600,
    "columns": ["x", "y"],
    "mean": [10.0, 0.0],
    "std": [2.0, 1.0],
    "categories": {},
    "target": "x",
    "target_mean": 10.0,
    "target_std": 2.0,
    "window": WINDOW,
    "horizon": HORIZON,
    "width": 2,
}
NETWORKS = {"autoencoder": {"width": 8}, "temporal_cnn": {"width": 8}, "rnn_forecaster": {"width": 16}}


def windows(rows, seed):
    """float32 [rows, WINDOW, 2] and [rows, HORIZON]."""
    chance = np.random.default_rng(seed)
    steps = np.arange(rows + WINDOW + HORIZON)
    wave = np.sin(steps / 2) + chance.normal(0, 0.05, len(steps))
    series = np.stack([wave, chance.normal(size=len(steps))], axis=1).astype(np.float32)
    starts = np.arange(rows)[:, None]
    inputs = series[starts + np.arange(WINDOW)]
    return inputs, 10 + 2 * series[starts + WINDOW + np.arange(HORIZON), 0]


def write(folder):
    for seed, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        inputs, targets = windows(rows, seed)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "targets.npy", targets)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


def served(rows):
    return windows(rows, 0)[0]
