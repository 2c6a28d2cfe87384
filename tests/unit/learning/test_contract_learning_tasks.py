"""Every line of the catalogue's LEARNING_TASKS, on tiny data of each extractor it learns from."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_features import PAIRS, TASKS, build_network, build_task, served, tiny

from lepton_tasks.core.catalogue import LEARNING_TASKS, LOSSES, OUTPUT_CODECS
from lepton_tasks.models.inference import predict

FIRST = {(task, features): model for task, features, model in reversed(PAIRS)}


@pytest.fixture(scope="module", params=TASKS, ids="-".join)
def case(request, tmp_path_factory):
    """A learning task, a network for it, and the folder of its features."""
    name, features = request.param
    folder = tmp_path_factory.mktemp(features)
    tiny(features).write(folder)
    torch.manual_seed(0)
    return build_task(name, features), build_network(name, features, FIRST[name, features]), folder, features


def test_a_network_suits_every_task():
    assert set(FIRST) == set(TASKS)


@pytest.mark.parametrize("name", LEARNING_TASKS.names())
def test_it_names_what_it_takes_and_gives(name):
    cls = LEARNING_TASKS.load(name)
    assert cls.metric
    assert cls.outputs
    assert cls.features
    assert isinstance(cls.replayable, bool)


def test_it_heeds_label_smoothing_or_says_that_it_does_not(case):
    task, _, folder, _ = case
    stored = torch.from_numpy(np.array(task.training_rows(folder).targets[:8]))
    plain, smooth = (task.targets(stored, share) for share in (0.0, 0.1))
    assert task.smooths is not torch.equal(plain, smooth)


def test_the_loss_falls_when_it_is_minimised(case):
    task, network, folder, _ = case
    rows = task.training_rows(folder)
    stored = [torch.from_numpy(np.array(array[:48])) for array in (rows.inputs, rows.targets)]
    trainable = task.trainable(network).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)  # a task may draw negatives or noise
        loss = task.loss(trainable(task.inputs(stored[0])), task.targets(stored[1], 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_suits_a_task_and_falls_when_it_is_minimised(name, tmp_path):
    loss = LOSSES.build(name, {})
    suited = [pair for pair in TASKS if loss.of in LEARNING_TASKS.load(pair[0]).loss_of]
    assert suited
    task_name, features = suited[0]
    tiny(features).write(tmp_path)
    torch.manual_seed(0)
    task, network = build_task(task_name, features), build_network(task_name, features, FIRST[task_name, features])
    rows = task.training_rows(tmp_path)
    inputs, targets = (torch.from_numpy(np.array(array[:48])) for array in (rows.inputs, rows.targets))
    trained = (task.embedded if loss.of == "embeddings" else task.trainable)(network).train()
    learning = {key: value.detach().clone() for key, value in network.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        torch.manual_seed(0)
        value = loss(trained(task.inputs(inputs)), task.targets(targets, 0.0))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    now = dict(network.named_parameters())
    assert [key for key, before in learning.items() if torch.equal(before, now[key])] == []


def test_metrics_are_numbers_that_can_be_compared_with_the_baseline(case):
    task, network, folder, _ = case
    rows = task.evaluation_rows(folder, "test")
    outputs = predict(task.evaluable(network), rows.inputs, task.outputs)
    found, trivial = task.metrics(outputs, rows.targets), task.baseline(rows)
    assert task.metric in found
    assert set(trivial) == set(found)
    assert all(np.isfinite(value) for value in [*found.values(), *trivial.values()])
    assert isinstance(task.score(found) > task.score(trivial), bool)
    right = task.right(outputs, rows.targets)
    assert right is None or (right.dtype == bool and len(right) == len(rows.targets))
    confidence = task.confidence(outputs)
    assert len(confidence) == len(rows.targets)


def test_what_is_served_takes_decoded_requests_and_its_codec_reads_the_answer(case):
    task, network, _, features = case
    outputs = predict(task.deployable(network), served(task, features, 5), task.outputs)
    assert list(outputs) == list(task.outputs)
    assert {len(values) for values in outputs.values()} == {5}
    codec = OUTPUT_CODECS.build(*task.output_codec())
    assert all(isinstance(codec.encode(outputs, row), dict) for row in range(5))


def test_plots_are_pictures(case, tmp_path):
    task, network, folder, _ = case
    rows = task.evaluation_rows(folder, "test")
    outputs = predict(task.evaluable(network), rows.inputs, task.outputs)
    for path in task.plots(tmp_path, rows, outputs, worst=4):
        assert Image.open(path).width > 100
