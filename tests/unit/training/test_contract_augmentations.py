"""Every line of the catalogue's AUGMENTATIONS."""

import pytest
import torch

from lepton_tasks.core.catalogue import AUGMENTATIONS
from lepton_tasks.core.components import check_augmentation
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.augment import Affine, Colour, Crop, Flip, Mixup

# Strong enough that every batch shows it.
PARAMS = {
    "affine": {"degrees": 30, "translate": 0.2, "scale": 0.3},
    "colour": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5},
    "crop": {"height": 12, "width": 16},
}
IMAGES = torch.rand(8, 3, 16, 20, generator=torch.Generator().manual_seed(0))
TARGETS = torch.eye(4)[torch.arange(8) % 4]
BOXES = torch.tensor([[[2.0, 4, 4, 16, 12]]]).expand(8, 1, 5)


def apply(name, seed=0):
    torch.manual_seed(seed)
    targets = BOXES if AUGMENTATIONS.load(name).boxes else TARGETS
    return AUGMENTATIONS.build(name, PARAMS.get(name, {}))(IMAGES, targets)


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_what_comes_out_is_a_batch_like_the_one_that_went_in(name):
    images, targets = apply(name)
    assert images.shape[:2] == IMAGES.shape[:2]
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    if AUGMENTATIONS.load(name).boxes:
        assert targets.shape == BOXES.shape
        assert set(targets[:, :, 0].ravel().tolist()) <= {2.0, -1.0}
    else:
        torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("name", "boxes", "fits"), [("flip", True, False), ("box_view", False, False), ("colour", True, True)]
)
def test_what_would_part_pictures_and_boxes_is_refused(name, boxes, fits):
    if fits:
        check_augmentation(name, boxes)
    else:
        with pytest.raises(ConfigError, match="Suitable: "):
            check_augmentation(name, boxes, where="train.augment.0.name")


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_chance_hangs_on_the_seed_alone(name):
    assert torch.equal(apply(name)[0], apply(name)[0])
    assert not torch.equal(apply(name, 0)[0], apply(name, 1)[0])


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_what_was_given_is_left_alone(name):
    images, targets = IMAGES.clone(), TARGETS.clone()
    apply(name)
    assert torch.equal(IMAGES, images)
    assert torch.equal(TARGETS, targets)


def test_affine_of_nothing_changes_nothing():
    torch.testing.assert_close(Affine()(IMAGES, TARGETS)[0], IMAGES, rtol=0, atol=1e-5)


def test_affine_turns_a_wide_picture_without_shearing_it():
    torch.manual_seed(0)
    wide = torch.zeros(1, 1, 40, 80)
    wide[:, :, 15:25, 35:45] = 1  # a square of 100 pixels in the middle
    for _ in range(5):
        turned, _ = Affine(degrees=45)(wide, TARGETS[:1])
        assert turned.sum().item() == pytest.approx(100, rel=0.03)
        rows, columns = turned[0, 0].sum(1), turned[0, 0].sum(0)
        assert (rows > 0.5).sum().item() == pytest.approx((columns > 0.5).sum().item(), abs=1)


def test_colour_of_nothing_changes_nothing():
    torch.testing.assert_close(Colour()(IMAGES, TARGETS)[0], IMAGES)


def test_a_crop_is_a_window_of_its_own_picture():
    images, _ = Crop(12, 16)(IMAGES, TARGETS)
    for source, window in zip(IMAGES, images, strict=True):
        places = [(top, left) for top in range(5) for left in range(5)]
        assert any(torch.equal(window, source[:, t : t + 12, w : w + 16]) for t, w in places)


def test_a_crop_that_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="99x99 does not fit into pictures of 16x20"):
        Crop(99, 99)(IMAGES, TARGETS)


def test_flip_mirrors_or_leaves():
    images, _ = Flip()(IMAGES, TARGETS)
    kinds = {"same" if torch.equal(a, b) else "mirrored" for a, b in zip(images, IMAGES, strict=True)}
    assert kinds == {"same", "mirrored"}
    assert torch.equal(Flip(1.0)(IMAGES, TARGETS)[0], IMAGES.flip(3))


def test_mixup_refuses_targets_that_cannot_be_mixed():
    with pytest.raises(ConfigError, match=r"train.augment: mixup: this task's targets cannot be mixed"):
        Mixup()(IMAGES, TARGETS.argmax(dim=1))


def test_mixup_mixes_targets_as_it_mixes_pictures():
    torch.manual_seed(0)
    plain = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2) / 4
    images, targets = Mixup(1.0)(plain, torch.eye(4))
    torch.testing.assert_close(images[:, 0, 0, 0], targets @ (torch.arange(4.0) / 4))
