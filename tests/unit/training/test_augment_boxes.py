import pytest
import torch

from lepton_tasks.training.augment_boxes import BoxView


def bright(images):
    """Smallest box around the bright pixels of each picture, [N, 4]."""
    found = []
    for image in images[:, 0]:
        rows, columns = torch.nonzero(image > 0.5, as_tuple=True)
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(found).float()


@pytest.fixture
def batch():
    images = torch.zeros(32, 1, 48, 64)
    images[:, :, 16:28, 24:44] = 1.0
    targets = torch.tensor([[1.0, 24, 16, 44, 28], [-1.0, 0, 0, 0, 0]]).expand(32, 2, 5)
    return images, targets


def test_boxes_follow_what_they_mark(batch):
    torch.manual_seed(0)
    images, targets = BoxView(scale=0.3, translate=0.1, flip=0.5, upside_down=0.5)(*batch)
    assert targets.shape == (32, 2, 5)
    assert targets[:, 0, 0].tolist() == [1] * 32
    assert targets[:, 1, 0].tolist() == [-1] * 32
    torch.testing.assert_close(targets[:, 0, 1:], bright(images), atol=1.0, rtol=0)
    assert len(targets[:, 0, 1:].unique(dim=0)) == 32


def test_mirrored_exactly(batch):
    images, targets = BoxView(scale=0, translate=0, flip=1, upside_down=1)(*batch)
    torch.testing.assert_close(targets[0, 0], torch.tensor([1.0, 64 - 44, 48 - 28, 64 - 24, 48 - 16]))
    torch.testing.assert_close(images, batch[0].flip(2, 3))


def test_a_box_that_leaves_the_picture_is_none():
    torch.manual_seed(1)
    images, edge = torch.zeros(64, 1, 32, 32), torch.tensor([[[0.0, 0, 12, 4, 20]]]).expand(64, 1, 5)
    _, targets = BoxView(scale=0, translate=0.2, flip=0)(images, edge)
    kept = targets[:, 0, 0] == 0
    wide = targets[:, 0, 3] - targets[:, 0, 1]
    assert 0 < kept.sum() < 64
    assert wide[kept].min() >= 0.4 * 4
    assert wide[~kept].max() < 0.4 * 4
