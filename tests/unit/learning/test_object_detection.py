import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lepton_tasks.codecs.boxes import BoxesCodec
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.learning.average_precision import average_precision, iou
from lepton_tasks.learning.object_detection import NOTHING, UNSEEN, ObjectDetection

FITTED = {"height": 64, "width": 64, "channels": 1, "mean": [0.5], "std": [0.2]}
MARKED = np.array([[[0, 0, 0, 32, 32], [1, 32, 32, 64, 64]], [[0, 0, 0, 16, 16], [NOTHING, 0, 0, 0, 0]]], np.float32)


def answers(*rows):
    """Outputs of two pictures: (picture, kind, score, box in pixels), ..."""
    outputs = {
        "boxes": np.zeros((2, 4, 4), np.float32),
        "scores": np.zeros((2, 4), np.float32),
        "kinds": np.zeros((2, 4), np.int64),
    }
    for place, (picture, kind, score, box) in enumerate(rows):
        outputs["boxes"][picture, place] = np.array(box) / 64
        outputs["scores"][picture, place] = score
        outputs["kinds"][picture, place] = kind
    return outputs


def test_average_precision_by_hand():
    task = ObjectDetection(FITTED, ["RBC", "big one"])
    found = task.metrics(
        answers(
            (0, 0, 0.9, (0, 0, 32, 32)),  # right
            (1, 0, 0.8, (32, 32, 64, 64)),  # nothing is there
            (1, 0, 0.7, (0, 0, 16, 16)),  # right, after a mistake: precision 2/3
            (0, 1, 0.5, (32, 32, 64, 48)),  # half of it: right at an overlap of .5 only
        ),
        MARKED,
    )
    # Recall 1/2 with precision 1, then 1 with 2/3: of 101 recalls, 51 are up to 1/2.
    expected = (51 * 1 + 50 * 2 / 3) / 101
    assert found["ap50_rbc"] == pytest.approx(expected)
    assert found["ap50_big_one"] == pytest.approx(1.0)
    assert found["map50"] == pytest.approx((expected + 1) / 2)
    assert found["map"] == pytest.approx((expected + 1 / 10) / 2)


def test_precision_and_recall_of_what_is_answered():
    task = ObjectDetection(FITTED, ["a", "b"], least=0.6)
    shown = answers((0, 0, 0.9, (0, 0, 30, 32)), (0, 0, 0.7, (1, 0, 32, 32)), (1, 0, 0.5, (0, 0, 16, 16)))
    figures = task.details(shown, Rows(MARKED, MARKED))["a"]
    assert (figures["boxes"], figures["precision"], figures["recall"]) == (2, 0.5, 0.5)  # the second is a double


def test_pictures_in_which_nobody_looked_are_not_judged():
    task, unseen = ObjectDetection(FITTED, ["a", "b"]), MARKED.copy()
    unseen[1, :, 0] = UNSEEN
    outputs = answers((0, 0, 0.9, (0, 0, 32, 32)), (0, 1, 0.9, (32, 32, 64, 64)), (1, 0, 0.95, (9, 9, 50, 50)))
    assert task.metrics(outputs, unseen)["map"] == pytest.approx(1.0)
    assert task.metrics(outputs, MARKED)["map"] < 1


def test_no_answer_at_all_is_worth_nothing():
    assert ObjectDetection(FITTED, ["a", "b"]).metrics(answers(), MARKED)["map50"] == 0


def test_a_kind_that_is_not_shown_does_not_count_in_the_mean():
    boxes, scores, kinds = (answers((0, 0, 0.9, (0, 0, 32, 32)))[name] for name in ("boxes", "scores", "kinds"))
    found = average_precision(boxes * 64, scores, kinds, MARKED[:, :1], kinds_count=3)
    assert found.at_half[1:] == [0, 0]
    assert found.mean_at_half == pytest.approx(found.at_half[0])


def test_overlaps():
    first = np.array([[0, 0, 2, 2]], float)
    np.testing.assert_allclose(iou(first, np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6.0]])), [[1 / 3, 1, 0]])


def write(folder, boxes, counts):
    (folder / "train").mkdir(parents=True)
    np.save(folder / "train" / "inputs.npy", np.zeros((len(counts), 64, 64, 1), np.uint8))
    np.save(folder / "train" / "targets.npy", np.full(len(counts), -1))
    pq.write_table(pa.table({"boxes": pa.array(counts, pa.int64())}), folder / "train" / "ids.parquet")
    names = ("row", "label", "xmin", "ymin", "xmax", "ymax")
    pq.write_table(
        pa.table(dict(zip(names, zip(*boxes, strict=True), strict=True))), folder / "train" / "boxes.parquet"
    )


def test_targets_are_the_boxes_of_each_picture(tmp_path):
    boxes = [(0, "b", 1.0, 2.0, 3.0, 4.0), (2, "a", 5.0, 6.0, 7.0, 8.0), (2, "b", 9.0, 10.0, 11.0, 12.0)]
    write(tmp_path, boxes, [1, 0, 2, None])
    task = ObjectDetection(FITTED, ["a", "b"])
    rows = task.evaluation_rows(tmp_path, "train")
    assert rows.targets[0].tolist() == [[1, 1, 2, 3, 4], [NOTHING, 0, 0, 0, 0]]
    assert rows.targets[2].tolist() == [[0, 5, 6, 7, 8], [1, 9, 10, 11, 12]]
    assert rows.targets[:, :, 0].tolist()[1::2] == [[NOTHING] * 2, [UNSEEN] * 2]
    assert len(task.training_rows(tmp_path).inputs) == 3


def test_pictures_without_boxes_are_refused(tmp_path):
    write(tmp_path, [(0, "c", 0.0, 0.0, 1.0, 1.0)], [1])
    with pytest.raises(DataError, match="has a box"):
        ObjectDetection(FITTED, ["a"]).training_rows(tmp_path)
    (tmp_path / "train" / "boxes.parquet").unlink()
    with pytest.raises(DataError, match="voc or coco"):
        ObjectDetection(FITTED, ["a"]).training_rows(tmp_path)


def test_the_answer_names_kinds_and_leaves_out_what_is_unsure():
    outputs = answers((0, 1, 0.6, (32, 0, 64, 64)), (0, 0, 0.9, (0, 0, 32, 16)), (0, 0, 0.2, (0, 0, 8, 8)))
    answer = BoxesCodec(labels=["a", "b"], least=0.3).encode(outputs, 0)
    assert [(d["label"], round(d["score"], 2)) for d in answer["detections"]] == [("a", 0.9), ("b", 0.6)]
    assert answer["detections"][0]["box"] == {"xmin": 0.0, "ymin": 0.0, "xmax": 0.5, "ymax": 0.25}
    assert answer["counts"] == {"a": 1, "b": 1}
    assert BoxesCodec(labels=["a", "b"]).encode(outputs, 1) == {"detections": [], "counts": {"a": 0, "b": 0}}


def test_the_loss_is_least_where_the_maps_say_what_is_marked():
    task = ObjectDetection(FITTED, ["a", "b"])
    targets = torch.tensor(MARKED)
    right = torch.full((2, 6, 8, 8), -12.0)
    # Middles (16, 16), (48, 48), (8, 8) lie in the places 2, 6 and 1, whose middles are 20, 52 and 12.
    for picture, kind, place, half, centre in ((0, 0, 2, 16, 16), (0, 1, 6, 16, 48), (1, 0, 1, 8, 8)):
        right[picture, kind, place, place] = 12.0
        middle = (place + 0.5) * 8
        near, far = middle - (centre - half), centre + half - middle
        right[picture, 2:, place - 1 : place + 2, place - 1 : place + 2] = np.log(2.0)
        right[picture, 2:4, place, place], right[picture, 4:, place, place] = np.log(near / 8), np.log(far / 8)
    moved = right.roll(1, dims=3)
    none = right.clone()
    none[:, :2] = -12.0
    loss = [task.loss(maps, targets).item() for maps in (right, moved, none)]
    assert loss[0] < 3
    assert loss[0] < min(loss[1:])
