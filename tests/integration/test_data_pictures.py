"""The use cases that prepare pictures, over real data and through all data stages."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.runner import run_pipeline

pytestmark = pytest.mark.skipif(
    "LEPTON_TEST_DATA" not in os.environ, reason="LEPTON_TEST_DATA names no folder of real data"
)
USE_CASES = Path(__file__).parents[2] / "configs" / "use_cases"
SPLITS = ("train", "validation", "test")


def run(name, tmp_path):
    ctx = RunContext.local(tmp_path, data_root=os.environ["LEPTON_TEST_DATA"])
    result = run_pipeline(load_use_case(USE_CASES / f"{name}.yaml"), ctx, until="validate_features")
    assert [(stage.stage, stage.error) for stage in result.stages if stage.error] == []
    assert result.stages[-1].stage == "validate_features"
    return ctx, result.refs


def ids(ctx, refs):
    folder = ctx.open(refs["features"])
    return {split: pq.read_table(folder / split / "ids.parquet") for split in SPLITS}


def test_blood_cells_keep_their_boxes_in_the_resized_picture(tmp_path):
    ctx, refs = run("bccd_cells", tmp_path)
    assert refs["cleaned"].facts == {"rows": 279, "refused": 1, "repaired": 2}
    cleaned = ctx.open(refs["cleaned"])
    assert pq.read_table(cleaned / "rejected.parquet")["step"].to_pylist() == ["near_duplicates"]
    repaired = pq.read_table(cleaned / "repaired.parquet").to_pylist()
    assert [(row["sample_id"][-9:-4], row["change"]) for row in repaired] == [
        ("00338", "of 14 boxes, 1 empty dropped"),
        ("00343", "of 12 boxes, 1 empty dropped"),
    ]
    folder = ctx.open(refs["features"])
    assert json.loads((folder / "dataset.json").read_text())["labels"] == ["Platelets", "RBC", "WBC"]
    boxes = {split: pq.read_table(folder / split / "boxes.parquet") for split in SPLITS}
    counts = sum(sum(table["boxes"].to_pylist()) for table in ids(ctx, refs).values())
    assert (
        counts == sum(table.num_rows for table in boxes.values()) == 3_768 - 2 - 28
    )  # the empty ones, and those of the near duplicate
    # White cells are violet, all else is pink: the middle of their boxes must be bluer than the picture.
    inputs = np.load(folder / "train" / "inputs.npy", mmap_mode="r")
    bluer = []
    for box in boxes["train"].filter(pc.equal(boxes["train"]["label"], "WBC")).to_pylist():
        blue = inputs[box["row"], ..., 2].astype(int) - inputs[box["row"], ..., 0]
        left, top, right, bottom = (box[side] for side in ("xmin", "ymin", "xmax", "ymax"))
        across, down = (right - left) / 4, (bottom - top) / 4
        middle = blue[int(top + down) : int(bottom - down) + 1, int(left + across) : int(right - across) + 1]
        bluer.append(middle.mean() > blue.mean() + 15)
    assert len(bluer) > 150
    assert all(bluer)


def test_x_rays_of_one_child_or_that_look_alike_are_in_one_split(tmp_path):
    ctx, refs = run("chest_xray", tmp_path)
    assert refs["cleaned"].facts == {"rows": 1_120, "refused": 0, "repaired": 0}
    rows = pq.read_table(ctx.open(refs["splits"]) / "rows.parquet").to_pylist()
    for bond in ("alike", "group"):
        splits_of = {}
        for row in rows:
            splits_of.setdefault(row[bond], set()).add(row["split"])
        assert len(splits_of) < len(rows)
        assert all(len(splits) == 1 for splits in splits_of.values())
    hashes = np.array([row["perceptual_hash"] for row in rows], np.uint64)
    for one, other in np.argwhere(np.triu(np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 2, k=1)):
        assert rows[one]["split"] == rows[other]["split"]
    facts = refs["features"].facts
    assert [facts[f"{split}_rows"] for split in SPLITS] == pytest.approx(
        [784, 168, 168], abs=25
    )  # shares are of children


def test_no_person_is_in_two_splits(tmp_path):
    ctx, refs = run("orl_faces", tmp_path)
    assert refs["cleaned"].facts["rows"] == 300
    people = {split: set(table["group"].to_pylist()) for split, table in ids(ctx, refs).items()}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 30
    assert [len(people[split]) for split in SPLITS] == pytest.approx([21, 4.5, 4.5], abs=1)
    first = ids(ctx, refs)["test"].to_pylist()[0]
    array = np.load(ctx.open(refs["features"]) / "test" / "inputs.npy")[0]
    assert array.shape == (112, 92, 1)
    np.testing.assert_array_equal(array, ImageCodec(112, 92, channels=1).decode(Path(first["uri"]).read_bytes()))


def test_frames_without_labels_pass_and_the_latest_are_tested_on(tmp_path):
    ctx, refs = run("security_video", tmp_path)
    assert refs["raw"].facts["classes"] == 0
    tables = ids(ctx, refs)
    times = {split: table["time_s"].to_pylist() for split, table in tables.items()}
    assert max(times["train"]) < min(times["validation"])
    assert max(times["validation"]) < min(times["test"])
    assert set(tables["train"]["video"].to_pylist()) == {"vtest.avi", "one-by-one-person-detection.mp4"}
    targets = np.load(ctx.open(refs["features"]) / "train" / "targets.npy")
    assert set(targets.tolist()) == {-1}
    assert refs["features_quality"].facts["failed"] == 0
