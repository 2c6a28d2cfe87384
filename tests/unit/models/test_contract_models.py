"""Every line of the catalogue's MODELS."""

import pytest
import torch

from lepton_tasks.core.catalogue import MODELS

SHAPE, CLASSES = [32, 24, 3], 5
NAMES = MODELS.names()


def build(name, seed=0, shape=SHAPE):
    torch.manual_seed(seed)
    return MODELS.build(name, {}, input_shape=shape, num_classes=CLASSES)


def images(n=4, shape=SHAPE):
    height, width, channels = shape
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [SHAPE, [28, 28, 1]])
def test_one_logit_a_class(name, shape):
    logits = build(name, shape=shape)(images(shape=shape))
    assert logits.shape == (4, CLASSES)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    network = build(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    targets = torch.tensor([0, 1, 2, 3])
    for _ in range(3):  # a block that begins as the identity passes no gradient in the first step
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images()), targets).backward()
        optimizer.step()
    still = [key for key, value in network.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name):
    first, second, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other_in_evaluation(name):
    network = build(name).eval()
    batch = images()
    alone = torch.cat([network(batch[i : i + 1]) for i in range(len(batch))])
    torch.testing.assert_close(network(batch), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_crops_of_another_size_are_taken(name):
    assert build(name)(images(shape=[24, 32, 3])).shape == (4, CLASSES)


def test_the_residual_network_has_the_size_its_docstring_says():
    count = sum(
        p.numel() for p in MODELS.build("residual_cnn", {}, input_shape=[96, 96, 3], num_classes=2).parameters()
    )
    assert round(count / 1e6, 1) == 0.6
