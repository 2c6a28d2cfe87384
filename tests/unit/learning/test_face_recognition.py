import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lepton_tasks.core.errors import DataError
from lepton_tasks.learning.face_recognition import FaceRecognition
from lepton_tasks.learning.verification import nearest, rank1, roc, similarities

SAME = np.array([0.9, 0.6, 0.4, 0.2], np.float32)
STRANGERS = np.array([0.8, 0.5, 0.3, 0.1, 0.0], np.float32)


def directions(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_area_is_the_share_of_rightly_ordered_pairs():
    ordered = np.mean([[s > t for t in STRANGERS] for s in SAME])
    assert roc(SAME, STRANGERS).auc == pytest.approx(ordered)
    assert roc(SAME, SAME).auc == pytest.approx(0.5)  # ties count half


def test_directions_that_are_no_numbers_have_no_figures():
    embeddings, people = np.eye(8, dtype=np.float32), np.arange(8) % 2
    embeddings[3] = np.nan
    found = roc(*similarities(embeddings, people))
    assert np.isnan([found.auc, found.eer, found.tar(0.01), found.threshold(0.01)]).all()


def test_accept_rates_and_their_threshold():
    curve = roc(SAME, STRANGERS)
    assert curve.tar(0.0) == 0.25
    assert curve.threshold(0.0) == pytest.approx(0.9)
    assert curve.tar(0.2) == 0.5  # above .5, one of five strangers: .8
    assert curve.threshold(0.2) == pytest.approx(0.6)
    assert (curve.threshold(0.2) <= SAME).mean() == curve.tar(0.2)


def test_the_equal_error_rate():
    assert roc(np.array([0.9, 0.8]), np.array([0.2, 0.1])).eer == 0
    assert roc(np.array([0.9, 0.3]), np.array([0.5, 0.1])).eer == pytest.approx(0.5)


def test_pairs_are_sorted_by_identity():
    same, strangers = similarities(directions(0, 60, 90), np.array([7, 7, 3]))
    np.testing.assert_allclose(same, [0.5], atol=1e-6)
    np.testing.assert_allclose(sorted(strangers), [0.0, np.cos(np.pi / 6)], atol=1e-6)


def test_identification_with_one_picture_enrolled():
    embeddings, identities = directions(0, 10, 90, 30), np.array([0, 0, 1, 1])
    # Enrolled 0 and 90 degrees: 10 is found, 30 is taken for the first. Enrolled 10 and 30: 0 is found, and 90 is.
    assert rank1(embeddings, identities) == 0.75
    np.testing.assert_array_equal(nearest(embeddings), [1, 0, 3, 1])


def test_the_margin_makes_the_own_identity_harder_to_reach():
    cosines, targets = torch.tensor([[0.8, 0.1]]), torch.tensor([0])
    wide, none = (FaceRecognition({}, ["a", "b"], margin=m, scale=2.0) for m in (0.5, 0.0))
    assert none.loss(cosines, targets).item() == pytest.approx(np.log1p(np.exp(2 * (0.1 - 0.8))), rel=1e-5)
    moved = np.cos(np.arccos(0.8) + 0.5)
    assert wide.loss(cosines, targets).item() == pytest.approx(np.log1p(np.exp(2 * (0.1 - moved))), rel=1e-5)


def write_split(folder, groups):
    folder.mkdir(parents=True)
    np.save(folder / "inputs.npy", np.zeros((len(groups), 2, 2, 1), np.uint8))
    np.save(folder / "targets.npy", np.full(len(groups), -1))
    pq.write_table(pa.table({"group": groups}), folder / "ids.parquet")


def test_identities_are_the_groups_of_the_rows(tmp_path):
    write_split(tmp_path / "train", ["zoe", "ann", "zoe"])
    task = FaceRecognition({"height": 2, "width": 2, "channels": 1, "groups": 2}, [])
    assert task.training_rows(tmp_path).targets.tolist() == [1, 0, 1]
    assert task.network_arguments() == {"input_shape": [2, 2, 1], "num_identities": 2}


def test_one_person_alone_teaches_nothing(tmp_path):
    write_split(tmp_path / "train", ["ann", "ann"])
    with pytest.raises(DataError, match="no two different persons"):
        FaceRecognition({"groups": 1}, []).training_rows(tmp_path)


def test_pixels_are_compared_without_their_brightness():
    task = FaceRecognition({}, ["a", "b"])
    shades = np.array([[0, 50, 100, 150], [100, 150, 200, 250], [150, 100, 50, 0], [250, 200, 150, 100]], np.uint8)
    rows = task.baseline(type("R", (), {"inputs": shades.reshape(4, 2, 2, 1), "targets": np.array([0, 0, 1, 1])}))
    assert (rows["auc"], rows["rank1"]) == (1.0, 1.0)
