"""Rows of a table of one column of numbers and one of categories, in two parts a split."""

import json

import numpy as np
import polars as pl

ROWS = {"train": 96, "validation": 24, "test": 24}
LABELS = ["no", "yes"]
NUMBER = {"name": "age", "column": "age", "kind": "number", "curve": "identity", "fill": 40.0}
FITTED = {
    "operations": [],
    "request": [
        {"name": "age", "type": "float", "required": False},
        {"name": "town", "type": "text", "required": False, "values": ["x", "y"]},
    ],
    "ignored": ["label"],
    "features": [
        NUMBER | {"shift": 40.0, "scale": 10.0},
        {"name": "town", "column": "town", "kind": "category", "values": ["x", "y"], "size": 4, "encoding": "ordinal"},
    ],
    "target": {"mean": 0.5, "std": 0.5},
}
NETWORKS = {"mlp": {"width": 16, "depth": 1}}


def table(rows, seed):
    """Ages, codes of towns (1: missing), and who says yes: the old of the one town, the young of the other."""
    chance = np.random.default_rng(seed)
    ages = chance.normal(40, 10, rows)
    codes = chance.choice(4, rows, p=[0.0, 0.1, 0.45, 0.45]).astype(np.int32)
    return ages, codes, ((ages > 40) == (codes == 2)).astype(np.int64)


def write(folder):
    for seed, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        ages, codes, targets = table(rows, seed)
        frame = pl.DataFrame({"age": ((ages - 40) / 10).astype(np.float32), "town": codes})
        half = rows // 2
        frame[:half].write_parquet(folder / split / f"part-{0:012d}.parquet")
        frame[half:].write_parquet(folder / split / f"part-{half:012d}.parquet")
        np.save(folder / split / "targets.npy", targets)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


def served(rows):
    ages, codes, _ = table(rows, 0)
    return np.stack([ages, codes.astype(np.float64)], axis=1)
