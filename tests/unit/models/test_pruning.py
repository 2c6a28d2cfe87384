import pytest
import torch

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.models.cnn import CNN
from lepton_tasks.models.pruning import keep_the_strongest

SHAPE = (16, 16, 1)


def trained():
    """A network as if it were trained: nothing in it is 0 or 1."""
    torch.manual_seed(0)
    network = CNN(SHAPE, 3, width=8)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1)
    return network.eval()


def test_channels_that_do_nothing_go_and_the_answers_stay():
    wide = trained()
    for index, channels in ((0, 8), (2, 16), (4, 16), (6, 32)):
        convolution, normalisation, _ = wide.features[index]
        dead = torch.randperm(channels)[: channels // 2]
        with torch.no_grad():
            convolution.weight[dead] *= 1e-9
            normalisation.running_mean[dead] = 0.0
            normalisation.bias[dead] = 0.0
            normalisation.weight[dead] *= 1e-9
    narrow = CNN(SHAPE, 3, **CNN.narrower({"width": 8}, 0.5)).eval()
    keep_the_strongest(wide, narrow)
    images = torch.rand(5, 1, 16, 16)
    torch.testing.assert_close(narrow(images), wide(images), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in narrow.parameters()) < 0.3 * sum(p.numel() for p in wide.parameters())


def test_a_channel_is_as_strong_as_the_normalisation_makes_it():
    wide = trained()
    with torch.no_grad():
        wide.features[0][0].weight[:] = 1.0
        wide.features[0][1].weight[:] = torch.tensor([1.0, 9, 2, 8, 3, 7, 4, 6])
        wide.features[0][1].running_var[:] = 1.0
    narrow = CNN(SHAPE, 3, width=4)
    keep_the_strongest(wide, narrow)
    assert narrow.features[0][1].weight.tolist() == [9.0, 8.0, 7.0, 6.0]
    assert narrow.features[2][0].weight.shape == (8, 4, 3, 3)


def test_other_layers_are_refused():
    with pytest.raises(ConfigError, match="has other layers"):
        keep_the_strongest(trained(), torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3)))
