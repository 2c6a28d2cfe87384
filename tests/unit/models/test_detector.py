import numpy as np
import pytest
import torch

from lepton_tasks.models.detection_loss import generalised_iou
from lepton_tasks.models.detector import Detections, boxes_of


class Fixed(torch.nn.Module):
    """Maps that do not depend on the picture."""

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.nn.Parameter(maps)

    def forward(self, images):
        return self.maps.expand(len(images), -1, -1, -1)


def maps(*found, side=8):
    """Two kinds: (kind, row, column, score, half a side in pixels), ..."""
    made = torch.full((1, 6, side, side), -9.0)
    made[:, 2:] = 0.0
    for kind, row, column, score, half in found:
        made[0, kind, row, column] = torch.logit(torch.tensor(score))
        made[0, 2:, row, column] = np.log(half / 8)
    return made


def detect(made, rows=1, **params):
    boxes, scores, kinds = Detections(Fixed(made), **params)(torch.zeros(rows, 64, 64, 1, dtype=torch.uint8))
    kept = scores[0] > 0
    return boxes[0][kept], scores[0][kept], kinds[0][kept]


def test_a_peak_becomes_a_box_in_shares_of_the_picture():
    boxes, scores, kinds = detect(maps((1, 2, 5, 0.8, 16)))
    torch.testing.assert_close(boxes, torch.tensor([[44 - 16, 20 - 16, 44 + 16, 20 + 16]]) / 64)
    torch.testing.assert_close(scores, torch.tensor([0.8]))
    assert kinds.tolist() == [1]


def test_what_is_no_peak_or_too_unsure_is_no_box():
    assert detect(maps((0, 2, 2, 0.9, 8), (0, 2, 3, 0.8, 8)))[1].tolist() == pytest.approx([0.9])
    assert detect(maps((0, 2, 2, 0.01, 8)))[1].tolist() == []


def test_the_surer_of_two_that_overlap_stays_unless_they_are_of_different_kinds():
    near = [(0, 2, 2, 0.6, 24), (0, 2, 4, 0.9, 24)]
    assert detect(maps(*near))[1].tolist() == pytest.approx([0.9])
    assert detect(maps(*near), overlap=0.6)[1].tolist() == pytest.approx([0.6, 0.9])  # in the order of their places
    other = [(0, 2, 2, 0.6, 24), (1, 2, 4, 0.9, 24)]
    assert detect(maps(*other))[1].tolist() == pytest.approx([0.6, 0.9])


def test_no_more_than_asked_for_and_the_surest():
    several = [(0, 1, 1, 0.5, 4), (0, 1, 5, 0.7, 4), (0, 5, 1, 0.6, 4)]
    assert detect(maps(*several), most=2)[1].tolist() == pytest.approx([0.7, 0.6])


def test_boxes_are_cut_at_the_picture():
    boxes, _, _ = detect(maps((0, 0, 0, 0.9, 20)))
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 24 / 64, 24 / 64]]))


def test_sides_are_measured_from_the_middle_of_a_place():
    logs = torch.zeros(1, 4, 2, 3)
    logs[0, :, 1, 2] = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    torch.testing.assert_close(boxes_of(logs)[0, 1, 2], torch.tensor([20.0 - 8, 12 - 16, 20 + 24, 12 + 32]))


def test_generalised_overlap_falls_with_the_distance():
    box = torch.tensor([0.0, 0, 2, 2])
    others = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [4, 0, 6, 2]])
    # Union 6 of 6 around, then 8 of 8, then 8 of 12.
    torch.testing.assert_close(generalised_iou(box, others), torch.tensor([1, 1 / 3, 0, -1 / 3]))
