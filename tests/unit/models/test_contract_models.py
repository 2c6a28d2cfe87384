"""Every line of the catalogue's MODELS, with every learning task that it suits."""

import numpy as np
import pytest
import torch
from tiny_features import PAIRS, build_network, build_task, served, tiny

from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.models.inference import predict

pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of an extractor's tiny features, made once."""
    made = {}

    def folder(features):
        if features not in made:
            made[features] = tmp_path_factory.mktemp(features)
            tiny(features).write(made[features])
        return made[features]

    return folder


def build(pair, seed=0):
    torch.manual_seed(seed)
    return build_network(*pair)


def test_every_model_suits_a_task():
    assert {model for _, _, model in PAIRS} == set(MODELS.names())


@pairs
def test_every_parameter_learns(pair, folders):
    task, network = build_task(*pair[:2]), build(pair)
    rows = task.training_rows(folders(pair[1]))
    inputs, targets = (torch.from_numpy(np.array(array[:16])) for array in (rows.inputs, rows.targets))
    trainable = task.trainable(network).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    for _ in range(3):  # a block that begins as the identity passes no gradient in the first step
        optimizer.zero_grad()
        task.loss(trainable(task.inputs(inputs)), task.targets(targets, 0.0)).backward()
        optimizer.step()
    learning = [key for key, value in network.named_parameters() if value.requires_grad]
    assert [key for key in learning if torch.equal(dict(network.named_parameters())[key], before[key])] == []


@pairs
def test_the_seed_decides_the_weights(pair):
    first, second, other = (build(pair, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pairs
def test_rows_do_not_see_each_other_in_evaluation(pair):
    task, network = build_task(*pair[:2]), build(pair)
    deployed, rows = task.deployable(network), served(task, pair[1], 4)
    together = predict(deployed, rows, task.outputs)
    alone = [predict(deployed, rows[i : i + 1], task.outputs) for i in range(4)]
    for name, values in together.items():
        np.testing.assert_allclose(values, np.concatenate([one[name] for one in alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "residual_cnn"])
def test_crops_of_another_size_are_taken(name):
    network = MODELS.build(name, {}, input_shape=[32, 24, 3], num_classes=5)
    assert network(torch.zeros(4, 3, 24, 32)).shape == (4, 5)


def test_the_residual_network_has_the_size_its_docstring_says():
    count = sum(
        p.numel() for p in MODELS.build("residual_cnn", {}, input_shape=[96, 96, 3], num_classes=2).parameters()
    )
    assert round(count / 1e6, 1) == 0.6
