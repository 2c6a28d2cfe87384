"""Every network of the catalogue that says so, and those that cannot be pruned."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning
from tiny_features import PAIRS, build_network, build_task, tiny
from torch import nn

from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.core.components import check_prunable
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.models.pruning import prune

PRUNABLE = [pair for pair in PAIRS if getattr(MODELS.load(pair[2]), "prunable", False)]
# What is normalised over the channels themselves is another number without some of them.
EXACT = [pair for pair in PRUNABLE if pair[2] != "mlp"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Inputs of `trainable` and targets, made once for each pair."""
    made = {}

    def rows(pair):
        if pair[:2] not in made:
            folder = tmp_path_factory.mktemp("rows")
            tiny(pair[1]).write(folder)
            task = build_task(*pair[:2])
            found = task.training_rows(folder)
            given, targets = (torch.from_numpy(np.array(array[:4])) for array in (found.inputs, found.targets))
            made[pair[:2]] = task, task.inputs(given), task.targets(targets, 0.1)
        return made[pair[:2]]

    return rows


def trained(pair):
    """A network as if it were trained: nothing in it is 0 or 1."""
    torch.manual_seed(0)
    network = build_network(*pair).eval()
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "threshold" not in name:
            value.copy_(0.2 * torch.rand_like(value) + 0.1)
    return network


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("pair", PRUNABLE, ids="-".join)
def test_half_of_the_channels_go_and_what_is_left_learns(pair, inputs):
    task, given, targets = inputs(pair)
    network = trained(pair)
    learning = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    whole, before = task.trainable(network), size(network)
    answers = whole(given)
    prune(network, whole, given, share=0.5)
    assert size(network) < (0.9 if pair[2] == "transformer" else 0.5) * before  # attention stays
    assert {name: parameter.requires_grad for name, parameter in network.named_parameters()} == learning
    found = whole.train()(given)
    assert found.shape == answers.shape
    task.loss(found, targets).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("pair", EXACT, ids="-".join)
def test_channels_that_do_nothing_go_and_the_answers_stay(pair, inputs):
    task, given, _ = inputs(pair)
    network = trained(pair)
    seen = []
    network.register_forward_pre_hook(lambda _network, given: seen.append(given))
    task.trainable(network)(given)
    silence(network, seen[0])
    narrow = copy.deepcopy(network)
    prune(narrow, task.trainable(narrow), given, share=0.5)
    for found, wanted in zip(tuples(narrow(*seen[0])), tuples(network(*seen[0])), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert size(narrow) < size(network)


def tuples(answers):
    return answers if isinstance(answers, tuple) else (answers,)


def silence(network, given):
    """Make half of the channels of every layer that may go put out 0, and be read with 0."""
    graph = torch_pruning.DependencyGraph().build_dependency(
        network, given, verbose=False, output_transform=lambda out: [one * 1 for one in tuples(out)]
    )
    for group in graph.get_all_groups():
        if any(isinstance(dep.target.module, torch_pruning.ops._OutputOp) for dep, _ in group):
            continue
        dead = torch.randperm(len(group[0].idxs))[: len(group[0].idxs) // 2].tolist()
        for dep, places in graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, dead):
            layer, reads = dep.target.module, "in_channels" in dep.handler.__name__
            with torch.no_grad():
                for name, value in layer.state_dict().items() if isinstance(layer, nn.Module) else ():
                    turned = getattr(layer, "transposed", False) != reads and value.dim() > 1
                    if value.dim() > reads:  # a bias is not read with
                        (value.transpose(0, 1) if turned else value)[places] = 1.0 if name == "running_var" else 0.0


def test_the_heads_of_attention_stay_as_wide_as_they_are(inputs):
    pair = ("text_classification", "text", "transformer")
    task, given, _ = inputs(pair)
    network = trained(pair)
    before = {name: value.clone() for name, value in network.state_dict().items() if "attention." in name}
    prune(network, task.trainable(network), given, share=0.5)
    now = network.state_dict()
    assert before
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_recurrent_networks_are_refused_with_the_suitable_ones():
    with pytest.raises(ConfigError, match=r"from the model 'rnn'. Suitable: autoencoder, .* residual_cnn, .* timm/"):
        check_prunable("rnn")


class Twice(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, rows):
        return self.network(self.network(rows))


class Unknown(nn.Module):
    """Reads its own width elsewhere."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, rows):
        return self.last(self.first(rows).view(len(rows), 8))


class Helped(nn.Module):
    """Has a second answer in training, as torchvision's googlenet does."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.helper = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, rows):
        between = self.first(rows)
        return (self.last(between), self.helper(between)) if self.training else self.last(between)


@pytest.mark.parametrize(
    ("network", "around", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4)), nn.Sequential, "has no channels that can be removed"),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), Twice, "it is called 2 times for an answer"),
        (Unknown(), nn.Sequential, "cannot be removed from this network: .* invalid for input of size"),
        (Helped(), nn.Sequential, "cannot be removed from this network: .* shapes cannot be multiplied"),
    ],
)
def test_what_cannot_be_pruned_says_why(network, around, message):
    with pytest.raises(ConfigError, match=message):
        prune(network, around(network), torch.rand(2, 4), share=0.5)
